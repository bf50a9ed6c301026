"""Softmax, and softmax attention: softmax(q k^T) v.

Axes: b batch, h heads, t and m positions, s key, e value.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import Contraction, Cost, Types, elementwise, moved
from flashir.ir.dims import Size
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, define_op, flag, number, sample
from flashir.ir.streaming import States, StreamingRule
from flashir.ir.traits import Axes, reads_result
from flashir.ir.types import TensorType
from flashir.ops.attention.documents import (
    MASK_WEIGHT,
    check_documents,
    clear_padding,
    document_numbers,
    mask_scores,
    ref_numbers,
    ref_seen,
    ref_weights,
)
from flashir.ops.attention.quadratic import check_heads
from flashir.ops.decode.context import DecodeContext
from flashir.ops.decode.kv_cache import caches_after, caches_step
from flashir.ops.functions.norm import accumulation_dtype, as_dtype
from flashir.ops.primitive.elementwise import TRANSCENDENTAL, floating

SOFTMAX_WEIGHT = TRANSCENDENTAL + 4  # maximum, difference, exp, sum, quotient


def _infer_softmax(x: TensorType) -> TensorType:
    if not x.rank:
        raise IRError(f"softmax runs over the last axis, got {x}")
    return floating(x)


def ref_softmax(x: Any) -> Any:
    """`softmax` in numpy."""
    powers = np.exp(x - x.max(-1, keepdims=True, initial=-np.inf))
    return powers / powers.sum(-1, keepdims=True)


def _decompose_softmax(b: Builder, x: Value) -> Value:
    """e^(x - max) / sum(e^(x - max)), at least in float32"""
    h = as_dtype(b, x, accumulation_dtype(x.type.dtype))
    powers = b.exp(b.sub(h, b.reduce_max(h, axes=(-1,), keepdims=True)))
    total = b.reduce_sum(powers, axes=(-1,), keepdims=True)
    return as_dtype(b, b.mul(powers, b.reciprocal(total)), x.type.dtype)


softmax = define_op(
    OpDef(
        "softmax",
        ("x",),
        infer=_infer_softmax,
        ref=ref_softmax,
        cost=elementwise(SOFTMAX_WEIGHT),
        samples=(sample("f32[2, 3, 5]"), sample("f32[4]"), sample("f32[2, 0, 3]"), sample("f32[2, 0, 0]")),
        decompose=_decompose_softmax,
        axes=Axes.LAST,
        gradient=reads_result,
        doc="e^x, divided by its sum over the last axis; no row may be all -inf",
    )
)


def until_now(b: Builder, length: Size) -> Value:
    """bool [t, m]: whether m <= t"""
    index = b.iota(length=length)
    return b.less_equal(b.reshape(index, shape=(1, length)), b.reshape(index, shape=(length, 1)))


def _infer_attention(
    q: TensorType, k: TensorType, v: TensorType, documents: TensorType | None = None, **_: Any
) -> TensorType:
    check_heads(q, k, v)
    check_documents(documents, q.shape[0], q.shape[-2])
    return floating(v)


def ref_softmax_attention(q: Any, k: Any, v: Any, documents: Any = None, *, causal: bool, scale: float) -> Any:
    """`softmax_attention` in numpy."""
    scores = np.einsum("...ts,...ms->...tm", q, k) * scale
    if causal:
        scores = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
    if documents is None:
        return np.einsum("...tm,...me->...te", ref_softmax(scores), v)
    seen = ref_seen(ref_numbers(documents, q.shape[-2]), q.shape[-2], scores.ndim)
    return np.einsum("...tm,...me->...te", ref_weights(ref_softmax, scores, seen), v)


def _decompose_attention(
    b: Builder, q: Value, k: Value, v: Value, documents: Value | None = None, *, causal: bool, scale: float
) -> Value:
    """softmax(scale q k^T) v; masked scores are -inf"""
    scores = b.matmul(b.mul(q, scale), k, transpose_y=True)
    if causal:
        scores = b.select(until_now(b, q.type.shape[-2]), scores, float("-inf"))
    if documents is None:
        return b.matmul(b.softmax(scores), v)
    numbers = document_numbers(b, documents, q.type.shape[-2])
    return clear_padding(b, b.matmul(b.softmax(mask_scores(b, scores, numbers)), v), numbers)


def _step_attention(
    now: DecodeContext, states: States, q: Value, k: Value, v: Value, causal: bool, scale: float
) -> tuple[Value, States]:
    return caches_step(now, states, now.b.mul(q, scale), k, v, kernel="softmax")


def cost_softmax_attention(ins: Types, outs: Types, *, causal: bool = False, **_: Any) -> Cost:
    """Two products of [t, m], and the softmax between them. If causal, a fused kernel skips masked scores."""
    q, v, traffic = ins[0], ins[2], moved(ins, outs)
    assert q is not None and v is not None
    *batch, t, s = q.sizes
    count, seen = prod(batch), (t + 1) // 2 if causal else t
    products = (Contraction(count, t, s, seen), Contraction(count, t, seen, v.sizes[-1]))
    weight = SOFTMAX_WEIGHT + MASK_WEIGHT * (len(ins) > 3)
    return Cost(weight * count * t * seen, traffic.read, traffic.written, contractions=products)


softmax_attention = define_op(
    OpDef(
        "softmax_attention",
        ("q", "k", "v", "documents?"),
        infer=_infer_attention,
        ref=ref_softmax_attention,
        cost=cost_softmax_attention,
        samples=tuple(
            sample(*(f"f32[2, 3, {t}, {d}]" for d in (4, 4, 6)), *documents, causal=causal, scale=scale)
            for t, scale, documents in (
                *((5, 0.5, ()), (1, 1.0, ()), (0, 0.5, ())),
                *((5, 0.5, ("bool[2, 5]",)), (7, 0.5, ("i32[2, 6]",)), (0, 0.5, ("bool[2, 0]",))),
            )
            for causal in (True, False)
        ),
        attrs={"causal": flag(), "scale": number(1.0, doc="the factor of q k^T; 1 / sqrt(s) in MHSA")},
        decompose=_decompose_attention,
        stream=StreamingRule(_step_attention, caches_after),
        doc="softmax(scale q k^T) v over [b, h, t, s]; causal: no position attends to later ones",
    )
)
