"""Which ops act on each token alone, and so do to a few tokens what they do to all.

The axis of tokens is the one whose size is symbolic in the length. A composite op acts on each token alone where all
that it is made of does; of primitives this is known by how they treat that axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from flashir.ir.builder import Builder
from flashir.ir.dims import Dim, symbols
from flashir.ir.graph import Attr, Graph, Node, Value
from flashir.ir.traits import Axes
from flashir.ir.types import TensorType
from flashir.ops import OPS
from flashir.transforms.lower import own_parameters


def part_of(node: Node) -> Graph:
    """What a composite op is made of, one level down: from the operands that are present to its results."""
    record = OPS[node.op]
    assert record.decompose is not None
    b = Builder("part")
    inputs = [None if value is None else b.input(value.name, value.type) for value in node.inputs]
    made = record.decompose(b, *inputs, **node.attrs, **own_parameters(b, node))
    return b.finish(*((made,) if isinstance(made, Value) else made))


@dataclass
class Tokens:
    """What a graph does to the axis of tokens.

    Args:
        length: the symbol in which the sizes of such axes are written.
    """

    length: str
    _parts: dict[int, tuple[Node, Graph]] = field(default_factory=dict, repr=False)

    def part(self, node: Node) -> Graph:
        """As `part_of`, made once."""
        if id(node) not in self._parts:
            self._parts[id(node)] = node, part_of(node)
        return self._parts[id(node)][1]

    def counts(self, size: Attr) -> bool:
        """Whether a size is one of tokens."""
        return isinstance(size, Dim) and self.length in symbols(size)

    def axes(self, type_: TensorType) -> list[int]:
        """The axes of tokens."""
        return [axis for axis, size in enumerate(type_.shape) if self.counts(size)]

    def varies(self, node: Node) -> bool:
        """Whether the length is in anything about the node."""
        values = (*node.operands, *node.outputs)
        return any(self.axes(value.type) for value in values) or any(map(self._named, node.attrs.values()))

    def alone(self, node: Node) -> bool:
        """Whether the node does to each token what it would do without the others."""
        if not self.varies(node):
            return True
        record = OPS[node.op]
        if record.stream is not None or record.region is not None:
            return False
        if record.decompose is not None:
            return all(map(self.alone, self.part(node).nodes))
        values = (*node.operands, *node.outputs)
        if any(len(self.axes(value.type)) > 1 for value in values) or not self.axes(node.output.type):
            return False
        rule = _RULES.get(record.axes) if record.axes is not None else None
        return rule is not None and rule(self, node)

    def _named(self, attr: Attr) -> bool:
        return any(map(self._named, attr)) if isinstance(attr, tuple) else self.counts(attr)

    def _axis(self, type_: TensorType) -> int:
        return self.axes(type_)[0]

    def _from_the_end(self, node: Node) -> set[int]:
        """Where the axis of tokens is, counted from the last axis back, in all that have one."""
        values = (*node.operands, *node.outputs)
        return {value.type.rank - axis for value in values for axis in self.axes(value.type)}


def _aligned(tokens: Tokens, node: Node) -> bool:
    """Elementwise: one place, as shapes broadcast"""
    return len(tokens._from_the_end(node)) == 1


def _along_another(tokens: Tokens, node: Node) -> bool:
    """The op works along another axis, and nothing joins that has no tokens"""
    x, axis = node.operands[0].type, node.attrs["axis"]
    assert isinstance(axis, int)
    return all(tokens.axes(v.type) for v in node.operands) and axis % x.rank != tokens._axis(x)


def _reduced(tokens: Tokens, node: Node) -> bool:
    x, axes = node.operands[0].type, node.attrs["axes"]
    assert isinstance(axes, tuple)
    return tokens._axis(x) not in [axis % x.rank for axis in axes if isinstance(axis, int)]


def _reshaped(tokens: Tokens, node: Node) -> bool:
    """As many elements stand before the axis as did, so that it is the same one"""
    before, after = node.operands[0].type, node.output.type
    i, j = tokens._axis(before), tokens._axis(after)
    one: Any = 1
    return before.shape[i] == after.shape[j] and prod(before.shape[:i], start=one) == prod(after.shape[:j], start=one)


def _gathered(tokens: Tokens, node: Node) -> bool:
    return not tokens.axes(node.operands[0].type)


def _multiplied(tokens: Tokens, node: Node) -> bool:
    """Not summed over tokens"""
    x, y = (value.type for value in node.operands)
    summed = x.rank - (2 if node.attrs["transpose_x"] else 1), y.rank - (1 if node.attrs["transpose_y"] else 2)
    return summed[0] not in tokens.axes(x) and summed[1] not in tokens.axes(y)


_RULES: Mapping[Axes, Callable[[Tokens, Node], bool]] = {
    Axes.ELEMENTWISE: _aligned,
    Axes.BROADCAST: _aligned,
    Axes.ALONG_ONE: _along_another,
    Axes.REDUCTION: _reduced,
    Axes.TRANSPOSE: lambda tokens, node: True,
    Axes.RESHAPE: _reshaped,
    Axes.GATHER: _gathered,
    Axes.MATMUL: _multiplied,
}
