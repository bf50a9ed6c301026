"""Reuse memory: sums with a product of attention that has no other reader are computed in place.

Allocating a large tensor is slow, because its pages are faulted in one by one. The gradients of products and sums do
not need their results, so these may be overwritten. The gradient of a relu needs only its result. The gradient of a
silu needs its operand, so the result of a dense layer is overwritten only if no gradient is required.

Under autocast a product is narrow, and so is an in-place sum. That is safe if both operands are products, and for
scores, where a relu and another product follow. Other sums are left alone: the residual stream, and the state of a
loop, which would lose precision.
"""

from __future__ import annotations

import operator
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx
from torch.nn import functional

TYPE = "flashir.type"
"""The metadata key of a node for the IR type of its value."""
PRODUCT = "flashir.product"
"""The metadata key that marks a product of two batches of matrices."""
SUM = "add_"


def reuse(graph: fx.Graph) -> None:
    """`y = q @ k; z = y + b; r = relu(z)` -> `z = y.add_(b); r = relu_(z)`, if all have the same type.

    `y = linear(x, w, b); z = silu(y)` -> `z = spent_silu(y)`.
    """
    for node in graph.nodes:
        if node.target is operator.add:
            _add_in_place(node)
        elif node.target is torch.relu and node.args[0].target == SUM and len(node.args[0].users) == 1:
            node.target = torch.relu_
        elif (
            node.target is functional.silu and node.args[0].target is functional.linear and len(node.args[0].users) == 1
        ):
            node.target = spent_silu


def spent_silu(x: Tensor) -> Tensor:
    """silu of a value with no other reader: in place, unless gradients are enabled."""
    return functional.silu(x, inplace=not torch.is_grad_enabled())


def _add_in_place(node: fx.Node) -> None:
    for x, y in (node.args, reversed(node.args)):
        if _is_product(x) and len(x.users) == 1 and _same_type(x, node) and (_is_product(y) or _is_for_relu(node)):
            node.op, node.target, node.args = "call_method", SUM, (x, y)
            return


def _same_type(x: fx.Node, node: fx.Node) -> bool:
    return TYPE in x.meta and x.meta[TYPE] == node.meta.get(TYPE)


def _is_product(x: Any) -> TypeGuard[fx.Node]:
    return isinstance(x, fx.Node) and PRODUCT in x.meta


def _is_for_relu(node: fx.Node) -> bool:
    return all(user.target is torch.relu for user in node.users)
