"""Sums that change only when a chunk closes: add_products, add_scores.

A target with branches skips both while their masks are all false, as for almost every single token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, define_op, sample
from flashir.ir.types import DType, TensorType
from flashir.ops.decode.context import column, with_rank
from flashir.ops.functions.norm import as_dtype


def _infer_products(
    total: TensorType,
    counted: TensorType,
    k: TensorType,
    v: TensorType,
    new_k: TensorType | None = None,
    new_v: TensorType | None = None,
) -> TensorType:
    if (new_k is None) != (new_v is None):
        raise IRError("new_k and new_v need each other")
    for key, value in ((k, v), (new_k, new_v)):
        if key is not None and value is not None and (key.rank < 3 or key.shape[:-1] != value.shape[:-1]):
            raise IRError(f"keys must be [b, .., n, s] and values [b, .., n, e], got {key}, {value}")
    batch, *heads = k.shape[:-2]
    wanted = TensorType(total.dtype, (batch, *(1,) * (total.rank - k.rank), *heads, k.shape[-1], v.shape[-1]))
    if total != wanted:
        raise IRError(f"the sum must be {wanted}, got {total}")
    _check_mask(counted, (batch, _rows(k, new_k)))
    return total


def _infer_scores(
    weights: TensorType, seen: TensorType, q: TensorType, k: TensorType, new_k: TensorType | None = None
) -> TensorType:
    rows = _rows(k, new_k)
    if weights.shape != (*q.shape[:-1], rows) or q.shape[-1] != k.shape[-1]:
        raise IRError(f"weights must be [b, .., t, {rows}] and queries [b, .., t, s], got {weights}, {q}")
    _check_mask(seen, (q.shape[0], q.shape[-2], rows))
    return weights


def _rows(k: TensorType, new_k: TensorType | None) -> Any:
    return k.shape[-2] if new_k is None else k.shape[-2] + new_k.shape[-2]


def _check_mask(mask: TensorType, shape: tuple[Any, ...]) -> None:
    if mask != (wanted := TensorType(DType.BOOL, shape)):
        raise IRError(f"the mask must be {wanted}, got {mask}")


def _ref_products(total: Any, counted: Any, k: Any, v: Any, new_k: Any = None, new_v: Any = None) -> Any:
    keys, values = _joined(k, new_k), _joined(v, new_v)
    mask = counted.reshape(len(counted), *(1,) * (keys.ndim - 3), -1, 1)
    return total + (np.swapaxes(keys * mask, -1, -2) @ values).reshape(total.shape)


def _ref_scores(weights: Any, seen: Any, q: Any, k: Any, new_k: Any = None) -> Any:
    mask = seen.reshape(len(seen), *(1,) * (q.ndim - 3), *seen.shape[1:])
    return weights + q @ np.swapaxes(_joined(k, new_k), -1, -2) * mask


def _joined(x: Any, new: Any) -> Any:
    return x if new is None else np.concatenate([x, new], axis=-2)


def _decompose_products(
    b: Builder, total: Value, counted: Value, k: Value, v: Value, new_k: Value | None = None, new_v: Value | None = None
) -> Value:
    """total + the product of each part, whose keys are zero where they are not counted"""
    dtype = total.type.dtype

    def product(mask: Value, keys: Value, values: Value) -> Value:
        own = b.select(with_rank(b, column(b, mask), keys.type.rank), as_dtype(b, keys, dtype), 0.0)
        return b.matmul(own, as_dtype(b, values, dtype), transpose_x=True)

    if new_k is None or new_v is None:
        added = product(counted, k, v)
    else:
        cut, end = k.type.shape[-2], counted.type.shape[1]
        old, new = (b.slice(counted, axis=1, start=start, stop=stop) for start, stop in ((0, cut), (cut, end)))
        added = b.add(product(old, k, v), product(new, new_k, new_v))
    return b.add(total, with_rank(b, added, total.type.rank))


def _decompose_scores(b: Builder, weights: Value, seen: Value, q: Value, k: Value, new_k: Value | None = None) -> Value:
    parts = [b.matmul(q, as_dtype(b, x, q.type.dtype), transpose_y=True) for x in (k, new_k) if x is not None]
    scores = as_dtype(b, _joined_parts(b, parts), weights.type.dtype)
    return b.add(weights, b.select(with_rank(b, seen, scores.type.rank), scores, 0.0))


def _joined_parts(b: Builder, parts: Sequence[Value]) -> Value:
    return parts[0] if len(parts) == 1 else b.concat(*parts, axis=-1)


add_products = define_op(
    OpDef(
        "add_products",
        ("total", "counted", "k", "v", "new_k?", "new_v?"),
        _infer_products,
        _ref_products,
        None,
        (
            sample("f32[2, 3, 4]", "bool[2, 5]", "f32[2, 5, 3]", "f32[2, 5, 4]"),
            sample("f32[2, 1, 3, 4]", "bool[2, 5]", "f32[2, 5, 3]", "f32[2, 5, 4]"),
            sample("f32[2, 3, 4]", "bool[2, 7]", "f32[2, 5, 3]", "f32[2, 5, 4]", "f32[2, 2, 3]", "f32[2, 2, 4]"),
            sample("f32[2, 6, 3, 4]", "bool[2, 5]", "f32[2, 6, 5, 3]", "f32[2, 6, 5, 4]"),
        ),
        decompose=_decompose_products,
        needed_if="counted",
        doc="the sum [b, .., s, e] and k^T v of the counted rows: of k and v, and then of new_k and new_v",
    )
)

add_scores = define_op(
    OpDef(
        "add_scores",
        ("weights", "seen", "q", "k", "new_k?"),
        _infer_scores,
        _ref_scores,
        None,
        (
            sample("f32[2, 3, 5]", "bool[2, 3, 5]", "f32[2, 3, 4]", "f32[2, 5, 4]"),
            sample("f32[2, 3, 7]", "bool[2, 3, 7]", "f32[2, 3, 4]", "f32[2, 5, 4]", "f32[2, 2, 4]"),
            sample("f32[2, 6, 3, 5]", "bool[2, 3, 5]", "f32[2, 6, 3, 4]", "f32[2, 6, 5, 4]"),
        ),
        decompose=_decompose_scores,
        needed_if="seen",
        doc="weights [b, .., t, n] and the scores q k^T of the rows that are seen [b, t, n]: of k, and then of new_k",
    )
)
