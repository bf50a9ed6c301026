"""performer: multi-head linear attention with the ReLU kernel (Choromanski et al. 2020), as in Tables 7 and 8."""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.ir.builder import Builder
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, define_op, number, sample
from flashir.ir.traits import where_causal
from flashir.ops.attention.chunk_choices import CUMSUM, TILE
from flashir.ops.attention.documents import ref_numbers, ref_seen
from flashir.ops.functions.norm import accumulation_dtype, as_dtype
from flashir.ops.layers.blocks import Params
from flashir.ops.layers.multi_head import HEADS, SCOPE, head_params, infer_heads, multi_head, ref_multi_head


def _ref_performer(
    x: Any, documents: Any = None, *, p: Params, causal: bool, kernel_eps: float, cumsum: str, tile: int, **attrs: Any
) -> Any:
    def attend(q: Any, k: Any, v: Any) -> Any:
        weights = np.einsum("bhts,bhms->bhtm", np.maximum(q, 0) + kernel_eps, np.maximum(k, 0) + kernel_eps)
        weights = np.tril(weights) if causal else weights
        if documents is None:
            return weights @ v / weights.sum(-1, keepdims=True)
        weights = weights * ref_seen(ref_numbers(documents, q.shape[2]), q.shape[2], 4)
        total = weights.sum(-1, keepdims=True)
        return np.where(total > 0, weights @ v / np.where(total > 0, total, 1), 0)

    return ref_multi_head(x, p, attend, documents, **attrs)


def _decompose_performer(
    b: Builder,
    x: Value,
    documents: Value | None = None,
    *,
    p: Params,
    heads: int,
    causal: bool,
    norm: str,
    rope: bool,
    token_shift: bool,
    cumsum: str,
    tile: int,
    kernel_eps: float,
    scope: str | None,
) -> Value:
    """f(q_t) sum f(k_m)^T v_m / f(q_t) sum f(k_m)^T with f(x) = relu(x) + eps, summed in float32 or wider.

    A column of ones beside v gives the denominator along with the numerator.
    """

    def attend(q: Value, k: Value, v: Value) -> Value:
        dtype = v.type.dtype
        q, k, v = (as_dtype(b, x, accumulation_dtype(dtype)) for x in (q, k, v))
        q, k = (b.add(b.relu(x), kernel_eps) for x in (q, k))
        ones_beside = b.pad(v, axis=3, after=1, value=1.0)
        sums = b.chunked_recurrence(
            ones_beside, lin_q=q, lin_k=k, documents=documents, causal=causal, cumsum=cumsum, tile=tile, lin_norm="none"
        )
        numerator, denominator = b.results("split", sums, axis=3, sizes=(v.type.shape[3], 1))
        if documents is not None:  # sums over padding alone are 0
            return as_dtype(b, b.divide_no_nan(numerator, denominator), dtype)
        return as_dtype(b, b.mul(numerator, b.reciprocal(denominator)), dtype)

    return multi_head(b, x, p, attend, documents, heads=heads, norm=norm, rope=rope, token_shift=token_shift)


performer = define_op(
    OpDef(
        "performer",
        ("x", "documents?"),
        infer=infer_heads,
        ref=_ref_performer,
        cost=None,
        samples=(
            sample("f32[2, 7, 8]", heads=2, cumsum="scan", tile=3),
            sample("f32[2, 7, 8]", heads=2, cumsum="matmul", tile=4, norm="scale_norm"),
            sample("f32[1, 5, 6]", heads=2, cumsum="native", tile=1, rope=False),
            sample("f32[2, 5, 8]", heads=2, cumsum="native", tile=4, causal=False),
            sample("f32[1, 0, 4]", heads=1, cumsum="native", tile=4),
            sample("f32[2, 7, 8]", "bool[2, 7]", heads=2, cumsum="scan", tile=3),
            sample("f32[2, 7, 8]", "bool[2, 6]", heads=2, cumsum="native", tile=3, causal=False),
            sample("f32[2, 7, 8]", heads=2, cumsum="scan", tile=3, token_shift=True),
        ),
        attrs={
            **HEADS,
            "cumsum": CUMSUM,
            "tile": TILE,
            "kernel_eps": number(1e-3, least=0, doc="added to the kernel, so that no row sums to 0"),
        },
        decompose=_decompose_performer,
        params=head_params,
        scope=SCOPE,
        ignores_padding=where_causal,
        layer="Performer",
        doc="x + multi-head linear attention of norm(x) with the kernel relu(x) + eps",
    )
)
