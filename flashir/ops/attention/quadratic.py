"""Quadratic attention (Code 6): kernel(q k^T + bias) v over all pairs of queries and keys.

Axes: b batch, n queries, m keys, s key, e expanded. Queries are already scaled.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import Contraction, Cost, Types, moved
from flashir.ir.dims import Size
from flashir.ir.graph import Value
from flashir.ir.op import OPS, OpDef, choice, define_op, flag, sample
from flashir.ir.streaming import States, StreamingRule
from flashir.ir.types import DType, TensorType
from flashir.ops.attention.documents import (
    MASK_WEIGHT,
    clear_padding,
    document_numbers,
    mask_scores,
    ref_numbers,
    ref_seen,
    ref_weights,
)
from flashir.ops.decode.context import DecodeContext, with_rank
from flashir.ops.decode.kv_cache import caches_after, caches_step

KERNELS = ("relu2", "softmax", "laplace")  # each is an op of this name, and maps -inf to 0
KERNEL = choice(
    *KERNELS, default="relu2", doc="the function of the scores: relu2 (Eq. 5), softmax (Table 1), Mega's laplace"
)
KERNEL_WEIGHT = {"relu2": 4.0, "softmax": 16.0, "laplace": 16.0}


def check_heads(q: TensorType, k: TensorType, v: TensorType) -> None:
    """Raises IRError unless q and k have the same type [.., n, s], and share all axes but the last with v."""
    if q.rank < 2 or q != k or q.shape[:-1] != v.shape[:-1] or q.dtype is not v.dtype:
        raise IRError(f"q and k must have the same type, and v the same axes but the last, got {q}, {k}, {v}")


def check_bias(bias: TensorType, v: TensorType, n: Size, m: Size) -> None:
    """Raises IRError unless the bias is [n, m] with the dtype of v."""
    if bias.shape != (n, m) or bias.dtype is not v.dtype:
        wanted = f"(n, n) = ({n}, {n})" if n == m else f"(n, m) = ({n}, {m})"
        raise IRError(f"bias must have shape {wanted} and type {v.dtype}, got {bias}")


def check_keys(documents: TensorType | None, k: TensorType) -> None:
    """Raises IRError unless documents are absent, or [b, m] or [b, .., m] for keys [b, .., m, s]."""
    if documents is None:
        return
    *lead, m, _ = k.shape
    wanted = [(lead[0], m), (*lead, m)] if lead else []
    if documents.shape not in wanted or documents.dtype not in (DType.BOOL, DType.I32):
        raise IRError(f"documents must be bool or i32 with a number per key of {k}, got {documents}")


def _infer_quadratic(
    q: TensorType,
    k: TensorType,
    v: TensorType,
    bias: TensorType,
    documents: TensorType | None = None,
    *,
    causal: bool,
    kernel: str,
) -> Any:
    if q.rank < 2 or q.shape[:-2] != k.shape[:-2] or q.shape[-1:] != k.shape[-1:] or q.dtype is not k.dtype:
        raise IRError(f"q and k must have the same type but for their number, got {q} and {k}")
    check_heads(k, k, v)
    n, m = q.shape[-2], k.shape[-2]
    check_bias(bias.with_shape(bias.shape[1:]) if bias.rank == 3 and bias.shape[0] == q.shape[0] else bias, v, n, m)
    check_keys(documents, k)
    if causal and isinstance(n, int) and isinstance(m, int) and n > m:
        raise IRError(f"causal attention must not have more queries than keys, got {q} and {k}")
    return q.with_shape((*q.shape[:-1], v.shape[-1]))


def ref_quadratic(
    q: Any, k: Any, v: Any, bias: Any, documents: Any = None, *, causal: bool, kernel: str = "relu2"
) -> Any:
    """`quadratic_attention` in numpy."""
    if np.ndim(bias) == 3:
        bias = bias.reshape(len(bias), *[1] * (q.ndim - 3), *bias.shape[1:])
    scores = np.einsum("...ns,...ms->...nm", q, k) + bias
    if causal:
        n, m = scores.shape[-2:]
        scores = np.where(np.tri(n, m, m - n, dtype=bool), scores, -np.inf)
    if documents is None:
        return np.einsum("...nm,...me->...ne", OPS[kernel].ref(scores), v)
    seen = ref_seen(ref_numbers(documents, k.shape[-2]), q.shape[-2], scores.ndim)
    return np.einsum("...nm,...me->...ne", ref_weights(OPS[kernel].ref, scores, seen), v)


def _decompose_quadratic(
    b: Builder,
    q: Value,
    k: Value,
    v: Value,
    bias: Value,
    documents: Value | None = None,
    *,
    causal: bool,
    kernel: str,
) -> Value:
    """kernel(q k^T + bias) v. The causal mask is in the bias, as -inf, so that it is applied once for all chunks"""
    if causal:
        n, m = bias.type.shape[-2:]
        row = b.iota(length=n) if n == m else b.add(b.iota(length=n), b.size(value=m - n))
        visible = b.less_equal(b.reshape(b.iota(length=m), shape=(1, m)), b.reshape(row, shape=(n, 1)))
        bias = b.select(visible, bias, float("-inf"))
    scores = b.add(b.matmul(q, k, transpose_y=True), with_rank(b, bias, q.type.rank) if bias.type.rank == 3 else bias)
    if documents is None:
        (weights,) = b.results(kernel, scores)
        return b.matmul(weights, v)
    numbers = document_numbers(b, documents, k.type.shape[-2])
    (weights,) = b.results(kernel, mask_scores(b, scores, numbers))
    return clear_padding(b, b.matmul(weights, v), numbers)


def _step_quadratic(
    now: DecodeContext, states: States, q: Value, k: Value, v: Value, bias: Value, causal: bool, kernel: str
) -> tuple[Value, States]:
    return caches_step(now, states, q, k, v, kernel=kernel, bias=bias)


def _cost_quadratic(ins: Types, outs: Types, causal: bool, kernel: str) -> Cost:
    q, k, v = ins[:3]
    assert q is not None and k is not None and v is not None
    *batch, n, s = q.sizes
    count, m = prod(batch), k.sizes[-2]
    traffic = moved(ins, outs)
    products = (Contraction(count, n, s, m), Contraction(count, n, m, v.sizes[-1]))
    weight = KERNEL_WEIGHT[kernel] + MASK_WEIGHT * (len(ins) > 4)
    return Cost(weight * count * n * m, traffic.read, traffic.written, contractions=products)


def _samples() -> tuple[Any, ...]:
    square = ("f32[2, 3, 4, 6]", "f32[2, 3, 4, 6]", "f32[2, 3, 4, 5]", "f32[4, 4]")
    wide = ("f32[2, 3, 2, 6]", "f32[2, 3, 5, 6]", "f32[2, 3, 5, 4]", "f32[2, 5]")
    masks = ((*square, "bool[2, 3, 4]"), (*square, "i32[2, 4]"), (*wide, "bool[2, 5]"), (*wide, "i32[2, 3, 5]"))
    empty = ("f32[2, 0, 6]", "f32[2, 0, 6]", "f32[2, 0, 4]", "f32[0, 0]")
    plain = tuple(sample(*case, causal=c, kernel=k) for case in (square, wide) for c in (True, False) for k in KERNELS)
    masked = tuple(sample(*case, causal=c, kernel=k) for case in masks for c in (True, False) for k in KERNELS)
    own = sample(*square[:3], "f32[2, 4, 4]", "bool[2, 4]", causal=True, kernel="laplace")
    return (
        *plain,
        *masked,
        own,
        sample(*empty, causal=True),
        sample(*empty, "bool[2, 0]", causal=False, kernel="softmax"),
    )


quadratic_attention = define_op(
    OpDef(
        "quadratic_attention",
        ("q", "k", "v", "bias", "documents?"),
        infer=_infer_quadratic,
        ref=ref_quadratic,
        cost=_cost_quadratic,
        samples=_samples(),
        attrs={
            "causal": flag(doc="the n queries are the last of m positions, and attend to no later ones"),
            "kernel": KERNEL,
        },
        decompose=_decompose_quadratic,
        stream=StreamingRule(_step_quadratic, caches_after),
        doc="kernel(q k^T + bias) v, with a causal mask if causal; the bias is [n, m], or [b, n, m] of each row",
    )
)
