"""Blocks that divide by the length of the whole sequence, such as gau with `qk_scale = length` (Code 6).

A block that can be told this length has an attribute `valid`. A decoder needs it, as it sees a few tokens at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flashir.ir.builder import Builder
from flashir.ir.graph import AUTO, Graph, Node, Value
from flashir.transforms.lower import Lower
from flashir.transforms.rewriter import rewrite


def divides_by_length(model: Graph) -> bool:
    """Whether a block divides by the length of the sequence, and has not been told another one."""
    return any(node.op == "size" for node in Lower("primitives", _stays).apply(model).walk())


def of_length(model: Graph, length: int) -> Graph:
    """The model with `length` wherever it divides by the length, for the first tokens of a sequence that long."""
    return rewrite(model, WithLength(length))


@dataclass(frozen=True)
class WithLength:
    """A rule that sets the length of blocks that divide by it. Without one, it changes nothing."""

    length: int | None

    def __call__(self, b: Builder, node: Node) -> Sequence[Value] | None:
        """The block with the length, or None for any other node."""
        if self.length is None or _is_told(node):
            return None
        return b.insert(node.op, node.inputs, {**node.attrs, "valid": self.length}, node.region)


def _stays(node: Node) -> bool:
    """Whether a node needs no length, or cannot be decomposed because a choice is still open."""
    return _is_told(node) or AUTO in node.attrs.values()


def _is_told(node: Node) -> bool:
    """Whether a node has a length, or cannot have one."""
    return node.attrs.get("valid", 0) is not None
