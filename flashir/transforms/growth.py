"""Growth analysis: how the values of a graph grow with the sequence length, by the growth rules of its ops.

See `GrowthRule` in `flashir.ir.traits`. A composite op without a rule grows as its decomposition.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from flashir.ir.dims import Dim, Size
from flashir.ir.graph import Graph, Node, Value
from flashir.ir.traits import Axes
from flashir.ir.types import DType
from flashir.ops import OPS
from flashir.ops.primitive.scan import cut_scan
from flashir.transforms.token_analysis import part_of

MOST = 4.0
"""Growth is clipped to this absolute value."""
LONG = 256
"""Shorter fixed lengths are ignored: a sum over so few tokens does not overflow."""
MOVES = frozenset((Axes.ALONG_ONE, Axes.TRANSPOSE, Axes.RESHAPE, Axes.BROADCAST, Axes.GATHER, Axes.MIXED))
"""Traits of ops that only move data. A loop that carries a value through such ops alone does not accumulate it."""


@dataclass(frozen=True)
class Growth:
    """The growth of the values of one graph.

    Args:
        lengths: fixed sizes that count tokens or chunks, in a graph for one length.
        of: the growth of each value.
        regions: the growth in the body of each loop, by the `id` of its node.
    """

    lengths: frozenset[int] = frozenset()
    of: dict[Value, float] = field(default_factory=dict)
    regions: dict[int, Growth] = field(default_factory=dict)

    @staticmethod
    def within(graph: Graph, *, carried: int = 0, lengths: Iterable[int] = ()) -> Growth:
        """Analyse a lowered graph.

        Args:
            graph: the graph.
            carried: the number of states: the last results, which are the last inputs of the next step.
            lengths: fixed lengths, in addition to those of the inputs.
        """
        split = len(graph.inputs) - carried
        growth = Growth(_fixed_lengths(graph, split, lengths))
        growth._carried(graph, [0.0] * split, [0.0] * carried, [])
        return growth

    def power(self, size: Size) -> float:
        """1 if the size counts tokens or chunks, otherwise 0."""
        return float(isinstance(size, Dim) or size in self.lengths)

    def _graph(self, graph: Graph, inputs: Iterable[float]) -> list[float]:
        """Record the growth of every value, given that of the inputs. Returns that of the results."""
        self.of.update(zip(graph.inputs, inputs, strict=True))
        for node in graph.nodes:
            results = self._node(node, [self.of[value] for value in node.operands])
            for value, growth in zip(node.outputs, results, strict=True):
                self.of[value] = 0.0 if value.type.dtype is DType.BOOL else max(-MOST, min(MOST, growth))
        return [self.of[value] for value in graph.outputs]

    def _node(self, node: Node, operands: Sequence[float]) -> Sequence[float]:
        record = OPS[node.op]
        if node.region is not None:
            inside = self.regions.setdefault(id(node), Growth(self.lengths))
            return inside._layers(node.region, operands) if node.op == "repeat" else inside._steps(node, operands)
        if record.growth is not None:
            return [record.growth(node, operands, self.power)]
        if not record.is_primitive:
            return Growth(self.lengths)._graph(part_of(node), operands)
        relevant = operands[:1] if record.axes is Axes.GATHER else _same_kind(node, operands)
        return [max(relevant, default=0.0)] * len(node.outputs)

    def _layers(self, body: Graph, operands: Sequence[float]) -> Sequence[float]:
        """The growth of a `repeat`: iterate its body to a fixed point."""
        x, *invariants = operands
        while True:
            (after,) = self._graph(body, [x, *invariants])
            if after <= x:
                return [x]
            x = after

    def _steps(self, node: Node, operands: Sequence[float]) -> Sequence[float]:
        """The growth of a `scan`."""
        assert node.region is not None
        states, walked, whole = cut_scan(operands, node.attrs)
        results = self._carried(node.region, [], states, [*walked, *whole])
        return [*map(max, states, results), *results[len(states) :]]

    def _carried(
        self, graph: Graph, before: Sequence[float], states: Sequence[float], after: Sequence[float]
    ) -> list[float]:
        """The growth of a graph that is run repeatedly on its own states. They stand between the other inputs.

        The new states are the first results if no inputs come before the states, otherwise the last results.
        """
        results = graph.outputs[: len(states)] if not before else graph.outputs[len(graph.outputs) - len(states) :]
        inputs = graph.inputs[len(before) : len(before) + len(states)]
        self._graph(graph, [*before, *states, *after])
        grown = [
            max(state, self.of[result] + _is_summed(graph, value, result))
            for state, value, result in zip(states, inputs, results, strict=True)
        ]
        return self._graph(graph, [*before, *grown, *after])


def _same_kind(node: Node, growth: Sequence[float]) -> Sequence[float]:
    """The growth of the float operands for a float result, of the integers for an integer; of all if there is none."""
    numbers = [(v, g) for v, g in zip(node.operands, growth, strict=True) if v.type.dtype is not DType.BOOL]
    same = [g for v, g in numbers if v.type.dtype.is_float is node.output.type.dtype.is_float]
    return same or [g for _, g in numbers]


def _is_summed(graph: Graph, before: Value, after: Value) -> bool:
    """Whether the new state combines the state with other values, instead of only moving it."""
    from_state = {before}
    for node in graph.nodes:
        if from_state.isdisjoint(node.operands):
            continue
        moved = OPS[node.op].axes in MOVES or len(_numbers(node, before)) < 2
        if not moved and _reaches(graph, node, after):
            return True
        from_state.update(node.outputs)
    return False


def _numbers(node: Node, like: Value) -> list[Value]:
    """The operands that are numbers of the same kind, floats or integers, in whatever width."""
    kind = like.type.dtype.is_float
    return [v for v in node.operands if v.type.dtype.is_float is kind and v.type.dtype is not DType.BOOL]


def _reaches(graph: Graph, start: Node, wanted: Value) -> bool:
    values = set(start.outputs)
    for node in graph.nodes:
        if not values.isdisjoint(node.operands):
            values.update(node.outputs)
    return wanted in values


def _fixed_lengths(graph: Graph, inputs: int, known: Iterable[int]) -> frozenset[int]:
    """The fixed sizes of token axes, and the numbers of chunks that they are split into.

    Axis 1 of an integer input counts tokens; axis 1 of a float input may be anything.
    """
    lengths = set(known)
    for value in graph.inputs[:inputs]:
        if not value.type.dtype.is_float:
            lengths.update(size for size in value.type.shape[1:2] if isinstance(size, int) and size >= LONG)
    for node in graph.nodes if lengths else ():
        _follow(node, lengths)
    return frozenset(lengths)


def _follow(node: Node, lengths: set[int]) -> None:
    """Add the length of padded tokens, and the number of chunks that tokens are split into."""
    for body in () if node.region is None else node.region.nodes:
        _follow(body, lengths)
    axes = OPS[node.op].axes
    if axes not in (Axes.ALONG_ONE, Axes.RESHAPE) or not node.operands:
        return
    before, after = node.operands[0].type.shape[1:2], node.output.type.shape[1:3]
    if not before or before[0] not in lengths or not after or not isinstance(after[0], int):
        return
    if (axes is Axes.ALONG_ONE and node.attrs["axis"] == 1) or (len(after) == 2 and after[0] * after[1] == before[0]):
        lengths.add(after[0])
