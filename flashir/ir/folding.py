"""Fold rules that several ops share: what a node simplifies to."""

from __future__ import annotations

from flashir.ir.builder import Builder
from flashir.ir.graph import Node, Value


def same_type(node: Node, x: Value | None) -> Value | None:
    """The value if it has the type of the node's result, or None."""
    return x if x is not None and x.type == node.output.type else None


def fold_identity(b: Builder, node: Node) -> Value | None:
    """`f(x)` with the type of x -> `x`, as for a cast to the same dtype."""
    return same_type(node, node.inputs[0])


def fold_single(b: Builder, node: Node) -> Value | None:
    """`f(x)` with one operand and one result -> `x`, as for a concat of one part."""
    return node.inputs[0] if len(node.inputs) == len(node.outputs) == 1 else None


def constant_of(b: Builder, value: Value | None) -> float | int | bool | None:
    """The number of a constant; None for any other value."""
    node = b.producer(value)
    if node is None or node.op != "constant":
        return None
    number = node.attrs["value"]
    assert isinstance(number, (int, float))
    return number
