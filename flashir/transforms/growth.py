"""How large the numbers of a graph become in long sequences: the growth of every value, from the rules of its ops.

See `GrowthRule` in `flashir.ir.traits`. Of a composite op, what it is made of tells.
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
"""Growth beyond is not told apart."""
LONG = 256
"""A known length that is shorter is not looked at: so few numbers can be summed up."""
MOVES = frozenset((Axes.ALONG_ONE, Axes.TRANSPOSE, Axes.RESHAPE, Axes.BROADCAST, Axes.GATHER, Axes.MIXED))
"""What ops do that put numbers elsewhere: what a loop carries through such ops alone, it does not sum up."""


@dataclass(frozen=True)
class Growth:
    """The growth of the values of one graph.

    Args:
        lengths: known sizes that are of tokens or chunks, where a graph is for one length.
        of: by value.
        regions: the same of the body of each loop, by the `id` of its node.
    """

    lengths: frozenset[int] = frozenset()
    of: dict[Value, float] = field(default_factory=dict)
    regions: dict[int, Growth] = field(default_factory=dict)

    @staticmethod
    def within(graph: Graph, *, carried: int = 0, lengths: Iterable[int] = ()) -> Growth:
        """That of a graph that is lowered.

        Args:
            graph: what grows in it.
            carried: its last inputs are what its last results were a step before, so many of them.
            lengths: as above; those that the inputs have are added.
        """
        split = len(graph.inputs) - carried
        found = Growth(_fixed_lengths(graph, split, lengths))
        found._carried(graph, [0.0] * split, [0.0] * carried, [])
        return found

    def power(self, size: Size) -> float:
        """1 for a size of tokens or chunks, else 0."""
        return float(isinstance(size, Dim) or size in self.lengths)

    def _graph(self, graph: Graph, inputs: Iterable[float]) -> list[float]:
        """Note the growth of every value, given that of the inputs. Returns that of the results."""
        self.of.update(zip(graph.inputs, inputs, strict=True))
        for node in graph.nodes:
            found = self._node(node, [self.of[value] for value in node.operands])
            for value, growth in zip(node.outputs, found, strict=True):
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
        counted = operands[:1] if record.axes is Axes.GATHER else _alike(node, operands)
        return [max(counted, default=0.0)] * len(node.outputs)

    def _layers(self, body: Graph, operands: Sequence[float]) -> Sequence[float]:
        """Layers, each the operand of the next."""
        x, *invariants = operands
        while True:
            (after,) = self._graph(body, [x, *invariants])
            if after <= x:
                return [x]
            x = after

    def _steps(self, node: Node, operands: Sequence[float]) -> Sequence[float]:
        """A loop along an axis, and what it carries."""
        assert node.region is not None
        states, walked, whole = cut_scan(operands, node.attrs)
        results = self._carried(node.region, [], states, [*walked, *whole])
        return [*map(max, states, results), *results[len(states) :]]

    def _carried(
        self, graph: Graph, before: Sequence[float], states: Sequence[float], after: Sequence[float]
    ) -> list[float]:
        """A graph that is run again and again on its own results; its states stand between its other inputs.

        They are its first results where it has no inputs before them, else its last.
        """
        results = graph.outputs[: len(states)] if not before else graph.outputs[len(graph.outputs) - len(states) :]
        inputs = graph.inputs[len(before) : len(before) + len(states)]
        self._graph(graph, [*before, *states, *after])
        grown = [
            max(state, self.of[result] + _is_summed(graph, value, result))
            for state, value, result in zip(states, inputs, results, strict=True)
        ]
        return self._graph(graph, [*before, *grown, *after])


def _alike(node: Node, growth: Sequence[float]) -> Sequence[float]:
    """The growth of the operands that are numbers of the kind of the result, or of those that there are instead."""
    numbers = [(v, g) for v, g in zip(node.operands, growth, strict=True) if v.type.dtype is not DType.BOOL]
    alike = [g for v, g in numbers if v.type.dtype.is_float is node.output.type.dtype.is_float]
    return alike or [g for _, g in numbers]


def _is_summed(graph: Graph, before: Value, after: Value) -> bool:
    """Whether a result is more than its state moved elsewhere, and new numbers beside it."""
    from_state = {before}
    for node in graph.nodes:
        if from_state.isdisjoint(node.operands):
            continue
        moved = OPS[node.op].axes in MOVES or len([v for v in node.operands if v.type.dtype == before.type.dtype]) < 2
        if not moved and _reaches(graph, node, after):
            return True
        from_state.update(node.outputs)
    return False


def _reaches(graph: Graph, start: Node, wanted: Value) -> bool:
    found = set(start.outputs)
    for node in graph.nodes:
        if not found.isdisjoint(node.operands):
            found.update(node.outputs)
    return wanted in found


def _fixed_lengths(graph: Graph, inputs: int, given: Iterable[int]) -> frozenset[int]:
    """The sizes of axes of tokens that are known, and how many chunks are made of those.

    Inputs that are whole numbers have a token in each place; of floats, axis 1 may be anything.
    """
    found = set(given)
    for value in graph.inputs[:inputs]:
        if not value.type.dtype.is_float:
            found.update(size for size in value.type.shape[1:2] if isinstance(size, int) and size >= LONG)
    for node in graph.nodes if found else ():
        _follow(node, found)
    return frozenset(found)


def _follow(node: Node, found: set[int]) -> None:
    """Add the length of tokens that are padded, and the number of chunks that they are cut into."""
    for body in () if node.region is None else node.region.nodes:
        _follow(body, found)
    axes = OPS[node.op].axes
    if axes not in (Axes.ALONG_ONE, Axes.RESHAPE) or not node.operands:
        return
    before, after = node.operands[0].type.shape[1:2], node.output.type.shape[1:3]
    if not before or before[0] not in found or not after or not isinstance(after[0], int):
        return
    if (axes is Axes.ALONG_ONE and node.attrs["axis"] == 1) or (len(after) == 2 and after[0] * after[1] == before[0]):
        found.add(after[0])
