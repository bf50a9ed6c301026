"""Memory used again: what is added to a product of attention that nobody else needs is added in its place.

A large tensor is costly to allocate: its pages are faulted in one by one. The gradients of a product and of a sum need
neither's result, so it may be overwritten; that of a relu needs the result of the relu alone. That of a silu needs what
went in, so the result of a dense layer is overwritten by it where no gradient is wanted.

Under autocast a product is narrow, and what is added in its place becomes so. That is right where both are products,
and where a relu makes scores of the sum, for another product. All other sums stay: the residual stream, and the state
of a loop, which must not stop growing.
"""

from __future__ import annotations

import operator
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx
from torch.nn import functional

TYPE = "flashir.type"
"""Where a node keeps the type of the value that it stands for."""
PRODUCT = "flashir.product"
"""Set on a product of two batches of matrices."""
SUM = "add_"


def reuse(graph: fx.Graph) -> None:
    """`y = q @ k; z = y + b; r = relu(z)` -> `z = y.add_(b); r = relu_(z)`, where all have one type.

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
    """silu of what nobody else reads: in its place, unless its gradient will be asked for."""
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
