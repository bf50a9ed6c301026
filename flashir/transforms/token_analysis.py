"""Token analysis: which ops are tokenwise, that is, compute each token independently of the others.

A token axis is one whose size depends on the symbol of the length. A composite op is tokenwise if all ops of its
decomposition are. For primitives the trait `axes` decides.
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
    """The decomposition of a composite op as a graph, from the operands that are present to the results."""
    record = OPS[node.op]
    assert record.decompose is not None
    b = Builder("part")
    inputs = [None if value is None else b.input(value.name, value.type) for value in node.inputs]
    results = record.decompose(b, *inputs, **node.attrs, **own_parameters(b, node))
    return b.finish(*((results,) if isinstance(results, Value) else results))


@dataclass
class Tokens:
    """How the ops of a graph treat the token axis.

    Args:
        length: the symbol of the length.
    """

    length: str
    _parts: dict[int, tuple[Node, Graph]] = field(default_factory=dict, repr=False)

    def part(self, node: Node) -> Graph:
        """The decomposition of a node, cached; see `part_of`."""
        if id(node) not in self._parts:
            self._parts[id(node)] = node, part_of(node)
        return self._parts[id(node)][1]

    def counts(self, size: Attr) -> bool:
        """Whether a size depends on the length."""
        return isinstance(size, Dim) and self.length in symbols(size)

    def axes(self, type_: TensorType) -> list[int]:
        """The token axes of a type."""
        return [axis for axis, size in enumerate(type_.shape) if self.counts(size)]

    def varies(self, node: Node) -> bool:
        """Whether an operand, result or attribute of the node depends on the length."""
        values = (*node.operands, *node.outputs)
        return any(self.axes(value.type) for value in values) or any(map(self._named, node.attrs.values()))

    def alone(self, node: Node) -> bool:
        """Whether the node is tokenwise. So is a node that does not depend on the length."""
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
        """The token axes of all operands and results, counted from the last axis."""
        values = (*node.operands, *node.outputs)
        return {value.type.rank - axis for value in values for axis in self.axes(value.type)}


def _aligned(tokens: Tokens, node: Node) -> bool:
    """Elementwise: all token axes are aligned by broadcasting"""
    return len(tokens._from_the_end(node)) == 1


def _along_another(tokens: Tokens, node: Node) -> bool:
    """The op works along another axis, and every operand has a token axis"""
    x, axis = node.operands[0].type, node.attrs["axis"]
    assert isinstance(axis, int)
    return all(tokens.axes(v.type) for v in node.operands) and axis % x.rank != tokens._axis(x)


def _reduced(tokens: Tokens, node: Node) -> bool:
    x, axes = node.operands[0].type, node.attrs["axes"]
    assert isinstance(axes, tuple)
    return tokens._axis(x) not in [axis % x.rank for axis in axes if isinstance(axis, int)]


def _reshaped(tokens: Tokens, node: Node) -> bool:
    """The token axis keeps its size and the number of elements before it"""
    before, after = node.operands[0].type, node.output.type
    i, j = tokens._axis(before), tokens._axis(after)
    one: Any = 1
    return before.shape[i] == after.shape[j] and prod(before.shape[:i], start=one) == prod(after.shape[:j], start=one)


def _gathered(tokens: Tokens, node: Node) -> bool:
    return not tokens.axes(node.operands[0].type)


def _multiplied(tokens: Tokens, node: Node) -> bool:
    """The product does not sum over tokens"""
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
