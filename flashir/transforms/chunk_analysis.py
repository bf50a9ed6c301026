"""Chunk analysis: which axis of a value holds the tokens, and whether an op can run chunk by chunk.

An op can run chunk by chunk if each chunk of its results depends only on the same chunk of its operands and on values
that do not depend on chunks. There is a rule for each kind of op; an op without a rule is rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from flashir.ir.dims import Size
from flashir.ir.graph import Node, Value
from flashir.ir.traits import Axes
from flashir.ir.types import Shape
from flashir.ops import OPS
from flashir.ops.primitive.scan import cut_scan


@dataclass(frozen=True)
class AxisLayout:
    """Axis `axis` has size `chunks * rows`; the rows of one chunk are contiguous."""

    axis: int
    rows: int


Known = Mapping[Value, AxisLayout]
Seen = list[AxisLayout | None]
"""The layout in which an op reads each operand, or None if it reads the operand whole."""


@dataclass(frozen=True)
class Chunks:
    """A sequence of `count` chunks of `rows` tokens each."""

    count: Size
    rows: int

    def spread(self, node: Node, known: Known) -> tuple[Seen, list[AxisLayout]] | None:
        """The layouts of the operands and results of a node that can run chunk by chunk; None if it cannot.

        Args:
            node: a node that reads a value in `known`.
            known: the layout of each value that depends on the tokens.
        """
        axes = OPS[node.op].axes
        rule = None if axes is None else _RULES.get(axes)
        return None if rule is None else rule(self, node, known)

    def fits(self, size: Size, along: AxisLayout) -> bool:
        """Whether an axis of this size can have this layout."""
        return size == self.count * along.rows


def _elementwise(chunks: Chunks, node: Node, known: Known) -> tuple[Seen, list[AxisLayout]] | None:
    """Axes are matched from the last one back. An operand of size 1 or without that axis is read whole."""
    from_back = {(value.type.rank - known[value].axis, known[value].rows) for value in node.operands if value in known}
    if len(from_back) != 1:
        return None
    back, rows = from_back.pop()
    seen: Seen = []
    for value in node.operands:
        along = AxisLayout(value.type.rank - back, rows)
        if value in known or (along.axis >= 0 and chunks.fits(value.type.shape[along.axis], along)):
            seen.append(along)
        elif along.axis < 0 or value.type.shape[along.axis] == 1:
            seen.append(None)
        else:
            return None
    return seen, [AxisLayout(node.output.type.rank - back, rows)]


def _rowwise(chunks: Chunks, node: Node, known: Known) -> tuple[Seen, list[AxisLayout]] | None:
    """The op works along the last axis of its first operand and reads the others whole: dense, norms, softmax."""
    x, *others = node.operands
    if x not in known or any(value in known for value in others) or known[x].axis == x.type.rank - 1:
        return None
    return [known[x], *(None for _ in others)], [known[x]]


def _matmul(chunks: Chunks, node: Node, known: Known) -> tuple[Seen, list[AxisLayout]] | None:
    """The tokens are rows of x, and y is read whole; or they are a batch axis."""
    x, y = node.operands
    rank = node.output.type.rank
    if x in known and y not in known and y.type.rank == 2:
        along = known[x]
        inside = along.axis == x.type.rank - 1 or (along.axis == x.type.rank - 2 and node.attrs["transpose_x"])
        return None if inside else ([along, None], [along])
    batch = {(v.type.rank - known[v].axis, known[v].rows) for v in (x, y) if v in known}
    if len(batch) != 1 or next(iter(batch))[0] <= 2:
        return None
    back, rows = batch.pop()
    seen: Seen = []
    for value in (x, y):
        axis = value.type.rank - back
        if value not in known and axis >= 0 and value.type.shape[axis] != 1:
            return None
        seen.append(known.get(value))
    return seen, [AxisLayout(rank - back, rows)]


def _off_axis(chunks: Chunks, node: Node, known: Known) -> tuple[Seen, list[AxisLayout]] | None:
    """The op works along one axis other than that of the tokens: split, concat, slice, pad, reverse, cumsum."""
    (along, *others) = {known[value] for value in node.operands if value in known}
    axis = int(str(node.attrs["axis"])) % node.operands[0].type.rank
    if others or axis == along.axis:
        return None
    if not all(chunks.fits(value.type.shape[along.axis], along) for value in node.operands):
        return None
    return [along for _ in node.operands], [along for _ in node.outputs]


def _reduce(chunks: Chunks, node: Node, known: Known) -> tuple[Seen, list[AxisLayout]] | None:
    """Axes other than that of the tokens are removed or become 1."""
    (x,) = node.operands
    along, axes = known[x], [axis % x.type.rank for axis in _numbers(node.attrs["axes"])]
    if along.axis in axes:
        return None
    removed = 0 if node.attrs["keepdims"] else sum(axis < along.axis for axis in axes)
    return [along], [AxisLayout(along.axis - removed, along.rows)]


def _transpose(chunks: Chunks, node: Node, known: Known) -> tuple[Seen, list[AxisLayout]] | None:
    """The axis of the tokens moves to its place in the permutation."""
    along = known[node.operands[0]]
    return [along], [AxisLayout(_numbers(node.attrs["perm"]).index(along.axis), along.rows)]


def _gather(chunks: Chunks, node: Node, known: Known) -> tuple[Seen, list[AxisLayout]] | None:
    """The table is read whole, the row indices along chunks."""
    table, rows = node.operands
    return None if table in known else ([None, known[rows]], [known[rows]])


def _reshape(chunks: Chunks, node: Node, known: Known) -> tuple[Seen, list[AxisLayout]] | None:
    """Row-major order keeps chunks contiguous if the axes before that of the tokens have as many elements as before.

    [b, g * n, s] -> [b, g, n, s] and back, [b, t, s] -> [b, 1, t, s]
    """
    (x,), along = node.operands, known[node.operands[0]]
    before, shape = prod(x.type.shape[: along.axis], start=1), node.output.type.shape
    for axis in range(len(shape)):
        for rows in dict.fromkeys((along.rows, chunks.rows, 1)):
            if prod(shape[:axis], start=1) == before and chunks.fits(shape[axis], AxisLayout(axis, rows)):
                return [along], [AxisLayout(axis, rows)]
    return None


def _scan(chunks: Chunks, node: Node, known: Known) -> tuple[Seen, list[AxisLayout]] | None:
    """A loop over chunks, one per step, whose initial state does not depend on chunks."""
    carried, walked, invariants = cut_scan(node.operands, node.attrs)
    along = AxisLayout(int(str(node.attrs["axis"])), 1)
    if any(value in known for value in (*carried, *invariants)):
        return None
    if not all(
        known.get(value, along) == along and chunks.fits(value.type.shape[along.axis], along) for value in walked
    ):
        return None
    seen: Seen = [None for _ in carried]
    return [*seen, *(along for _ in walked), *(None for _ in invariants)], [along for _ in node.outputs[len(carried) :]]


def _numbers(value: object) -> Sequence[int]:
    assert isinstance(value, tuple)
    return [int(number) for number in value]


Rule = Callable[[Chunks, Node, Known], tuple[Seen, list[AxisLayout]] | None]

_RULES: Mapping[Axes, Rule] = {
    Axes.ELEMENTWISE: _elementwise,
    Axes.ALIGNED: _elementwise,
    Axes.LAST: _rowwise,
    Axes.ALONG_ONE: _off_axis,
    Axes.REDUCTION: _reduce,
    Axes.MATMUL: _matmul,
    Axes.TRANSPOSE: _transpose,
    Axes.GATHER: _gather,
    Axes.RESHAPE: _reshape,
    Axes.LOOP: _scan,
}


def one_chunk(shape: Shape, along: AxisLayout) -> Shape:
    """The shape of one chunk of a value."""
    return (*shape[: along.axis], along.rows, *shape[along.axis + 1 :])
