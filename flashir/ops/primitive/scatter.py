"""put_rows: replace rows of tables, at different places for each row of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.errors import InputError, IRError
from flashir.ir.cost import moved
from flashir.ir.op import OpDef, define_op, sample
from flashir.ir.traits import Axes, reads_operand
from flashir.ir.types import DType, TensorType


def _infer(table: TensorType, rows: TensorType, ids: TensorType) -> TensorType:
    if ids.dtype not in (DType.I32, DType.I64):
        raise IRError(f"ids must be whole numbers, got {ids}")
    if table.rank < 3 or ids.rank != 2 or ids.shape[0] != table.shape[0]:
        raise IRError(f"the table must be [b, .., n, d] and ids [b, t], got {table}, {ids}")
    wanted = table.with_shape((*table.shape[:-2], ids.shape[1], table.shape[-1]))
    if rows != wanted:
        raise IRError(f"rows must be {wanted}, one per id, got {rows}")
    return table


def _ref(table: Any, rows: Any, ids: Any) -> Any:
    last = table.shape[-2] - 1
    if ids.size and not 0 <= ids.min() <= ids.max() <= last:
        raise InputError(f"ids must lie between 0 and {last}, got {ids.min()} .. {ids.max()}")
    result = np.array(table)
    for of_row, new, places in zip(result, rows, ids, strict=True):
        of_row[..., places, :] = new
    return result


put_rows = define_op(
    OpDef(
        "put_rows",
        ("table", "rows", "ids"),
        infer=_infer,
        ref=_ref,
        cost=moved,
        samples=(
            sample("f32[1, 5, 3]", "f32[1, 1, 3]", "i32[1, 1]"),
            sample("f32[2, 3, 5, 4]", "f32[2, 3, 1, 4]", "i32[2, 1]"),
        ),
        axes=Axes.MIXED,
        gradient=reads_operand(2),
        doc="the table [b, .., n, d] with rows [b, .., t, d] written at the distinct ids [b, t]",
    )
)
