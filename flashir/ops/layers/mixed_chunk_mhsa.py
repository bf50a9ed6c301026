"""mc_mhsa: multi-head mixed chunk attention of MC-TFM++ (Section 4.3): softmax within chunks, linear between.

Axes: b batch, h heads, t length, g chunks, n and m within a chunk, s key, e value.
"""

from __future__ import annotations

from typing import Any

from flashir.ir.builder import Builder
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, define_op, sample
from flashir.ir.traits import where_causal
from flashir.ops.attention.chunk_choices import CUMSUM, chunk_size
from flashir.ops.attention.linear import LIN_NORM
from flashir.ops.attention.recurrence_reference import ref_recurrence
from flashir.ops.layers.blocks import Params
from flashir.ops.layers.multi_head import (
    HEADS,
    SCOPE,
    head_params,
    infer_heads,
    inverse_root,
    multi_head,
    ref_multi_head,
)

CHUNK = chunk_size("tokens that attend to each other one by one")


def _ref_mc_mhsa(
    x: Any, documents: Any = None, *, p: Params, chunk: int, causal: bool, lin_norm: str, **attrs: Any
) -> Any:
    def attend(q: Any, k: Any, v: Any) -> Any:
        q = q / q.shape[-1] ** 0.5
        how: dict[str, Any] = {"chunk": chunk, "causal": causal, "lin_norm": lin_norm, "kernel": "softmax"}
        return ref_recurrence(v, q, k, None, q, k, documents=documents, **how)

    return ref_multi_head(x, p, attend, documents, **attrs)


def _decompose_mc_mhsa(
    b: Builder,
    x: Value,
    documents: Value | None = None,
    *,
    p: Params,
    heads: int,
    norm: str,
    rope: bool,
    token_shift: bool,
    scope: str | None,
    **attrs: Any,
) -> Value:
    def attend(q: Value, k: Value, v: Value) -> Value:
        q = b.mul(q, inverse_root(q))
        return b.chunked_recurrence(v, q, k, None, q, k, documents=documents, kernel="softmax", **attrs)

    return multi_head(b, x, p, attend, documents, heads=heads, norm=norm, rope=rope, token_shift=token_shift)


mc_mhsa = define_op(
    OpDef(
        "mc_mhsa",
        ("x", "documents?"),
        infer=infer_heads,
        ref=_ref_mc_mhsa,
        cost=None,
        samples=(
            sample("f32[2, 7, 8]", heads=2, chunk=3, cumsum="scan"),
            sample("f32[2, 6, 8]", heads=2, chunk=3, cumsum="matmul", norm="scale_norm", lin_norm="chunk"),
            sample("f32[1, 7, 6]", heads=1, chunk=4, cumsum="native", causal=False, rope=False, lin_norm="none"),
            sample("f32[1, 0, 4]", heads=1, chunk=4, cumsum="native"),
            sample("f32[2, 7, 8]", "bool[2, 7]", heads=2, chunk=3, cumsum="scan"),
            sample("f32[2, 7, 8]", "bool[2, 6]", heads=2, chunk=3, cumsum="native", causal=False),
            sample("f32[2, 7, 8]", heads=2, chunk=3, cumsum="scan", token_shift=True),
        ),
        attrs={**HEADS, "chunk": CHUNK, "cumsum": CUMSUM, "lin_norm": LIN_NORM},
        decompose=_decompose_mc_mhsa,
        params=head_params,
        scope=SCOPE,
        ignores_padding=where_causal,
        layer="MixedChunkAttention",
        doc="x + multi-head mixed chunk attention of norm(x), with the same queries and keys for both parts",
        source="§4.3",
    )
)
