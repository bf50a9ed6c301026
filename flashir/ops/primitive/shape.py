"""Ops that move, split and join elements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from flashir.errors import InputError, IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import copied, free, moved
from flashir.ir.dims import Dim, Size, ceildiv, divides, evaluate, substitute
from flashir.ir.folding import fold_identity, fold_single, same_type
from flashir.ir.graph import Node, Value
from flashir.ir.op import OpDef, define_op, integer, listing, number, sample, size, sizes
from flashir.ir.traits import Axes, reads_nothing, reads_operand
from flashir.ir.types import DType, Shape, TensorType, broadcast_shapes, shape_text

Ref = Any


def axis_of(x: TensorType, axis: int) -> int:
    """The axis counted from the front. Raises IRError if it is out of range."""
    if not -x.rank <= axis < x.rank:
        raise IRError(f"axis {axis} is out of range for {x}")
    return axis % x.rank


def with_axis(x: TensorType, axis: int, length: Size) -> TensorType:
    """The type with one size replaced."""
    axis = axis_of(x, axis)
    return x.with_shape((*x.shape[:axis], length, *x.shape[axis + 1 :]))


@lru_cache(maxsize=4096)  # every pass asks for the same shapes again
def _count(shape: Shape) -> Size:
    total: Size = 1
    for length in shape:
        total = total * length
    return total


def _fold_reshape(b: Builder, node: Node) -> Value | None:
    """`reshape(reshape(x))` -> `reshape(x)`, of a part of x -> a part of `reshape(x)`, and to its own shape -> `x`"""
    before = b.producer(node.inputs[0])
    if before is not None and before.op == node.op:
        return b.reshape(before.inputs[0], shape=node.attrs["shape"])
    if before is not None and before.op == "split":
        return _part_of_reshape(b, node, before) or fold_identity(b, node)
    return fold_identity(b, node)


def _part_of_reshape(b: Builder, node: Node, split: Node) -> Value | None:
    """`reshape(split(x))` -> `split(reshape(x))`, so that all parts share one reshape, if the parts of x are in a row.

    The axes after the one that is split have size 1, up to the last: [b, h, 1, s] -> [b, 1, h s].
    """
    (x,), part = split.operands, node.operands[0]
    axis, shape, wanted = axis_of(x.type, int(str(split.attrs["axis"]))), x.type.shape, node.output.type.shape
    last, sizes = shape[-1], [value.type.shape[axis] for value in split.outputs]
    in_a_row = axis < x.type.rank - 1 and all(size == 1 for size in shape[axis + 1 : -1])
    lead = [size for size in shape[:axis] if size != 1]
    if not in_a_row or not wanted or [size for size in wanted[:-1] if size != 1] != lead:
        return None
    if wanted[-1] != part.type.shape[axis] * last:
        return None
    widths = tuple(size * last for size in sizes)
    row = b.reshape(x, shape=(*wanted[:-1], sum(widths)))
    return b.results("split", row, axis=-1, sizes=widths)[split.outputs.index(part)]


def _fold_transpose(b: Builder, node: Node) -> Value | None:
    """`transpose(x)` that keeps the order -> `x`"""
    perm = node.attrs["perm"]
    assert isinstance(perm, tuple)
    return node.inputs[0] if perm == tuple(range(len(perm))) else None


def _fold_slice(b: Builder, node: Node) -> Value | None:
    """`slice(x)` of the whole axis -> `x`; `slice(pad(x))` that removes the padding -> `x`"""
    before = b.producer(node.inputs[0])
    padding = before is not None and before.op == "pad" and before.attrs["axis"] == node.attrs["axis"]
    if padding and before is not None and before.attrs["before"] == 0 and node.attrs["start"] == 0:
        whole = same_type(node, before.inputs[0])
        if whole is not None:
            return whole
    return fold_identity(b, node) if node.attrs["start"] == 0 else None


def _infer_reshape(x: TensorType, shape: Shape) -> TensorType:
    if _count(x.shape) != _count(shape):
        raise IRError(f"shape {shape_text(shape)} has {_count(shape)} elements, the operand {x} has {_count(x.shape)}")
    return x.with_shape(shape)


reshape = define_op(
    OpDef(
        "reshape",
        ("x",),
        infer=_infer_reshape,
        ref=lambda x, shape: x.reshape(shape),
        cost=free,
        samples=(sample("f32[2, 6]", shape=(2, 2, 3)), sample("f32[0, 4]", shape=(0, 2, 2))),
        attrs={"shape": sizes(doc="in row-major order")},
        axes=Axes.RESHAPE,
        moves=True,
        gradient=reads_nothing,
        fold=_fold_reshape,
        doc="the same elements in another shape",
    )
)


def _infer_transpose(x: TensorType, perm: Sequence[int]) -> TensorType:
    if sorted(perm) != list(range(x.rank)):
        raise IRError(f"perm must hold each axis of {x} once, got {tuple(perm)}")
    return x.with_shape(tuple(x.shape[axis] for axis in perm))


transpose = define_op(
    OpDef(
        "transpose",
        ("x",),
        infer=_infer_transpose,
        ref=lambda x, perm: np.transpose(x, perm),
        cost=moved,
        samples=(sample("f32[2, 3, 4]", perm=(2, 0, 1)),),
        attrs={"perm": listing(doc="axis i of the result is axis perm[i] of x")},
        axes=Axes.TRANSPOSE,
        moves=True,
        gradient=reads_nothing,
        fold=_fold_transpose,
        doc="the axes in another order",
    )
)


def _infer_broadcast(x: TensorType, shape: Shape) -> TensorType:
    if broadcast_shapes(x.shape, shape) != tuple(shape):
        raise IRError(f"{x} does not broadcast to {shape_text(shape)}")
    return x.with_shape(shape)


broadcast_to = define_op(
    OpDef(
        "broadcast",
        ("x",),
        infer=_infer_broadcast,
        ref=lambda x, shape: np.broadcast_to(x, shape),
        cost=moved,
        samples=(sample("f32[3, 1]", shape=(2, 3, 4)),),
        attrs={"shape": sizes()},
        axes=Axes.BROADCAST,
        moves=True,
        gradient=reads_nothing,
        fold=fold_identity,
        doc="repeats elements along axes that are new or of size 1",
    )
)


def _infer_pad(x: TensorType, axis: int, before: Size, after: Size, value: float) -> TensorType:
    return with_axis(x, axis, x.shape[axis_of(x, axis)] + before + after)


def _ref_pad(x: Ref, axis: int, before: int, after: int, value: float) -> Ref:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return np.pad(x, widths, constant_values=value)


pad = define_op(
    OpDef(
        "pad",
        ("x",),
        infer=_infer_pad,
        ref=_ref_pad,
        cost=moved,
        samples=(sample("f32[2, 3]", axis=1, after=2), sample("f32[2, 3]", axis=0, before=1, after=0, value=-1.0)),
        attrs={"axis": integer(), "before": size(0), "after": size(0), "value": number(0.0)},
        axes=Axes.ALONG_ONE,
        moves=True,
        gradient=reads_nothing,
        fold=fold_identity,
        doc="a constant before and after, on one axis",
    )
)


def _infer_slice(x: TensorType, axis: int, start: Size, stop: Size) -> TensorType:
    length = x.shape[axis_of(x, axis)]
    known = isinstance(stop, int) and isinstance(length, int) and isinstance(start, int)
    if known and not 0 <= start <= stop <= length:  # type: ignore[operator]  # all three are int here
        raise IRError(f"slice {start}:{stop} does not lie in axis {axis} of {x}")
    return with_axis(x, axis, stop - start)


def _ref_slice(x: Ref, axis: int, start: int, stop: int) -> Ref:
    return np.take(x, np.arange(start, stop), axis=axis)


slice_ = define_op(
    OpDef(
        "slice",
        ("x",),
        infer=_infer_slice,
        ref=_ref_slice,
        cost=copied,
        samples=(sample("f32[2, 5]", axis=1, start=1, stop=4), sample("f32[4]", axis=0, start=0, stop=0)),
        attrs={"axis": integer(), "start": size(0), "stop": size()},
        axes=Axes.ALONG_ONE,
        moves=True,
        gradient=reads_nothing,
        fold=_fold_slice,
        doc="start <= index < stop on one axis",
    )
)


def _infer_split(x: TensorType, axis: int, sizes: Shape) -> tuple[TensorType, ...]:
    axis = axis_of(x, axis)
    if not sizes or sum(sizes[1:], sizes[0]) != x.shape[axis]:
        raise IRError(f"sizes {shape_text(sizes)} must add up to {x.shape[axis]}, axis {axis} of {x}")
    return tuple(with_axis(x, axis, length) for length in sizes)


split = define_op(
    OpDef(
        "split",
        ("x",),
        infer=_infer_split,
        ref=lambda x, axis, sizes: tuple(np.split(x, np.cumsum(sizes)[:-1], axis=axis)),
        cost=moved,
        samples=(sample("f32[2, 7]", axis=1, sizes=(4, 1, 2)),),
        attrs={"axis": integer(), "sizes": sizes()},
        axes=Axes.ALONG_ONE,
        moves=True,
        gradient=reads_nothing,
        fold=fold_single,
        doc="splits one axis into parts of these sizes",
    )
)


def _infer_concat(*xs: TensorType, axis: int) -> TensorType:
    if not xs:
        raise IRError("concat needs at least one operand")
    first = xs[0]
    axis = axis_of(first, axis)
    total: Size = 0
    for x in xs:
        if x.rank != first.rank or with_axis(x, axis, 0) != with_axis(first, axis, 0):
            raise IRError(f"operands must agree in type off axis {axis}, got {first} and {x}")
        total = total + x.shape[axis]
    return with_axis(first, axis, total)


concat = define_op(
    OpDef(
        "concat",
        ("xs*",),
        infer=_infer_concat,
        ref=lambda *xs, axis: np.concatenate(xs, axis=axis),
        cost=moved,
        samples=(sample("f32[2, 3]", "f32[2, 1]", axis=1),),
        attrs={"axis": integer()},
        axes=Axes.ALONG_ONE,
        moves=True,
        gradient=reads_nothing,
        fold=fold_single,
        fuses=False,
        doc="joins operands along one axis",
    )
)


def _infer_reverse(x: TensorType, axis: int) -> TensorType:
    axis_of(x, axis)
    return x


reverse = define_op(
    OpDef(
        "reverse",
        ("x",),
        infer=_infer_reverse,
        ref=lambda x, axis: np.flip(x, axis),
        cost=moved,
        samples=(sample("f32[2, 3]", axis=1),),
        attrs={"axis": integer()},
        axes=Axes.ALONG_ONE,
        moves=True,
        gradient=reads_nothing,
        fuses=False,
        doc="the elements of one axis in reverse order",
    )
)


def rows(table: Ref, ids: Ref) -> Ref:
    """`gather` in numpy. Raises InputError for a missing row, because numpy would count negative ids from the end."""
    if ids.size and not 0 <= ids.min() <= ids.max() < len(table):
        raise InputError(f"ids must lie between 0 and {len(table) - 1}, got {ids.min()} .. {ids.max()}")
    return np.take(table, ids, axis=0)


def _infer_gather(table: TensorType, ids: TensorType) -> TensorType:
    if ids.dtype not in (DType.I32, DType.I64):
        raise IRError(f"ids must be whole numbers, got {ids}")
    if not table.rank:
        raise IRError("the table must have at least one axis")
    return table.with_shape((*ids.shape, *table.shape[1:]))


gather = define_op(
    OpDef(
        "gather",
        ("table", "ids"),
        infer=_infer_gather,
        ref=rows,
        cost=copied,
        samples=(sample("f32[5, 3]", "i32[2, 4]"), sample("f32[5]", "i32[3]")),
        axes=Axes.GATHER,
        rows=lambda types, attrs: (1, types[0].shape[0]),
        gradient=reads_operand(1),
        fuses=False,
        doc="rows of the table by number",
    )
)


def pad_to_multiple(b: Builder, x: Value, axis: int, multiple: int, value: float = 0.0) -> Value:
    """[.., t, ..] -> [.., multiple * ceildiv(t, multiple), ..]; the operand itself if it divides."""
    length = x.type.shape[axis]
    if divides(multiple, length):
        return x
    return b.pad(x, axis=axis, after=ceildiv(length, multiple) * multiple - length, value=value)


def bind_attrs(attrs: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """The attributes with every symbolic size as a number. Raises IRError for an unknown symbol."""
    return {name: _each_size(value, lambda size: evaluate(size, sizes)) for name, value in attrs.items()}


def substitute_attrs(attrs: Mapping[str, Any], sizes: Mapping[str, Size]) -> dict[str, Any]:
    """The attributes with symbols replaced by other sizes, also in lists. Unknown symbols stay."""
    return {name: _each_size(value, lambda size: substitute(size, sizes)) for name, value in attrs.items()}


def _each_size(value: Any, change: Callable[[Dim], Size]) -> Any:
    if isinstance(value, tuple):
        return tuple(_each_size(item, change) for item in value)
    return change(value) if isinstance(value, Dim) else value
