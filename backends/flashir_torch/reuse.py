"""Memory used again: what is added to a product of attention that nobody else needs is added in its place.

A large tensor is costly to allocate: its pages are faulted in one by one. The gradients of a product and of a sum need
neither's result, so it may be overwritten; that of a relu needs the result of the relu alone. Not so products with a
weight: under autocast they are narrow, and what is added to them is the residual stream, which must not become so.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

TYPE = "flashir.type"
"""Where a node keeps the type of the value that it stands for."""
PRODUCT = "flashir.product"
"""Set on a product of two batches of matrices."""
SUM = "add_"


def reuse(graph: fx.Graph) -> None:
    """`y = x @ w; z = y + b` -> `z = y.add_(b)`, and `r = relu(z)` -> `r = relu_(z)`, where all have one type."""
    for node in graph.nodes:
        if node.target is operator.add:
            _add_in_place(node)
        elif node.target is torch.relu and node.args[0].target == SUM and len(node.args[0].users) == 1:
            node.target = torch.relu_


def _add_in_place(node: fx.Node) -> None:
    for x, y in (node.args, reversed(node.args)):
        if isinstance(x, fx.Node) and PRODUCT in x.meta and len(x.users) == 1 and _same_type(x, node):
            node.op, node.target, node.args = "call_method", SUM, (x, y)
            return


def _same_type(x: fx.Node, node: fx.Node) -> bool:
    return TYPE in x.meta and x.meta[TYPE] == node.meta.get(TYPE)
