"""put_rows: a table with some of its rows replaced, the counterpart of gather."""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.errors import InputError, IRError
from flashir.ir.types import DType, TensorType
from flashir.ops.costs import moved
from flashir.ops.opdef import OpDef, define_op, sample


def _infer(table: TensorType, rows: TensorType, ids: TensorType) -> TensorType:
    if ids.dtype not in (DType.I32, DType.I64):
        raise IRError(f"ids must be whole numbers, got {ids}")
    if table.rank != 2 or rows != table.with_shape((*ids.shape, *table.shape[1:])):
        raise IRError(f"the table must be [n, d] and rows [.., d], one for each of the ids, got {table}, {rows}, {ids}")
    return table


def _ref(table: Any, rows: Any, ids: Any) -> Any:
    if ids.size and not 0 <= ids.min() <= ids.max() < len(table):
        raise InputError(f"ids must lie between 0 and {len(table) - 1}, got {ids.min()} .. {ids.max()}")
    made = np.array(table)
    made[ids] = rows
    return made


put_rows = define_op(
    OpDef(
        "put_rows",
        ("table", "rows", "ids"),
        _infer,
        _ref,
        moved,
        (sample("f32[5, 3]", "f32[1, 3]", "i32[1]"), sample("f32[5, 4]", "f32[1, 1, 4]", "i32[1, 1]")),
        doc="the table [n, d] with rows [.., d] in place of those numbered, each number once",
    )
)
