"""put_rows: a cache or ring with new rows in some of its slots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.types import DType, TensorType
from flashir.ops.costs import Contraction, Cost, Types, moved
from flashir.ops.opdef import OpDef, define_op, sample
from flashir.ops.stream import equal, under_heads

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Value


def _infer(x: TensorType, rows: TensorType, slots: TensorType) -> TensorType:
    fits = x.rank >= 3 and rows.rank == x.rank and rows.dtype is x.dtype and x.dtype.is_float
    if not fits or rows.shape[:-2] != x.shape[:-2] or rows.shape[-1] != x.shape[-1]:
        raise IRError(f"x [b, .., n, d] and rows [b, .., t, d] must be floats alike but for n and t, got {x}, {rows}")
    if slots.dtype not in (DType.I32, DType.I64) or slots.shape != (x.shape[0], rows.shape[-2]):
        raise IRError(f"slots must be whole numbers [b, t], one for each row, got {slots} for {rows}")
    return x


def _ref(x: Any, rows: Any, slots: Any) -> Any:
    made = np.array(x)
    for row, t in np.ndindex(slots.shape):
        if 0 <= slots[row, t] < x.shape[-2]:
            made[row, ..., slots[row, t], :] = rows[row, ..., t, :]
    return made


def _decompose(b: Builder, x: Value, rows: Value, slots: Value) -> Value:
    """Where a slot is named, the product of 0 and 1 with the rows, else x"""
    batch, t = slots.type.shape
    n = x.type.shape[-2]
    named = equal(b, b.reshape(b.iota(length=n), shape=(n, 1)), b.reshape(slots, shape=(batch, 1, t)))
    which = under_heads(b, b.cast(named, dtype=x.type.dtype), x.type.rank)
    taken = b.less(0.0, b.reduce_max(which, axes=(-1,), keepdims=True))
    return b.select(taken, b.matmul(which, rows), x)


def _cost(ins: Types, outs: Types) -> Cost:
    x, rows, traffic = ins[0], ins[1], moved(ins, outs)
    assert x is not None and rows is not None
    *batch, n, d = x.sizes
    product = Contraction(int(np.prod(batch)), n, rows.sizes[-2], d)
    return Cost(2.0 * x.count, traffic.read, traffic.written, contractions=(product,))


put_rows = define_op(
    OpDef(
        "put_rows",
        ("x", "rows", "slots"),
        _infer,
        _ref,
        _cost,
        (
            sample("f32[2, 5, 3]", "f32[2, 1, 3]", "i32[2, 1]", high=7),
            sample("f32[2, 3, 5, 4]", "f32[2, 3, 1, 4]", "i32[2, 1]", high=7),
        ),
        decompose=_decompose,
        doc="x [b, .., n, d] with rows [b, .., t, d] in the slots named; a slot once, and outside of x for none",
    )
)
