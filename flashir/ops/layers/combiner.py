"""combiner: a chunk attends to itself and to a summary of each other chunk, under one softmax (Appendix A).

V_g = softmax(Q [K_g; K^sum]) [V_g; V^sum]. Decision 030 settles what the paper leaves open.
Axes: b batch, h heads, t length, g and c chunks, n and m within a chunk, s key, e value.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.ir.builder import Builder
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, ParamSpec, define_op, sample
from flashir.ir.traits import where_causal
from flashir.ir.types import TensorType
from flashir.ops.attention.chunk_summary import ref_document_means
from flashir.ops.attention.summary_attention import ref_summary_attention, sides_of
from flashir.ops.functions.position import ref_rope
from flashir.ops.layers.blocks import Params, matrix, width_of
from flashir.ops.layers.mixed_chunk_mhsa import CHUNK
from flashir.ops.layers.multi_head import (
    HEADS,
    SCOPE,
    cut_heads,
    head_params,
    infer_heads,
    inverse_root,
    merged,
    projected,
    ref_cut_heads,
    ref_merged,
    ref_projected,
)
from flashir.ops.layers.token_shift import norm_and_shift, ref_norm_and_shift


def _params_combiner(
    x: TensorType, documents: TensorType | None = None, *, norm: str, **_: Any
) -> dict[str, ParamSpec]:
    d = width_of(x)
    summaries = {}
    for name in ("summary_k", "summary_v"):
        summaries[f"{name}.weight"] = matrix(d, d)
        summaries[f"{name}.bias"] = ParamSpec((d,))
    return {**head_params(x, norm=norm), **summaries}


def _ref_combiner(
    x: Any,
    documents: Any = None,
    *,
    p: Params,
    heads: int,
    causal: bool,
    norm: str,
    rope: bool,
    token_shift: bool,
    chunk: int,
    **_: Any,
) -> Any:
    q, k, v = ref_projected(ref_norm_and_shift(x, p, documents, norm=norm, token_shift=token_shift), p)
    packed = documents is not None and documents.dtype != bool
    k_sums: list[Any] = []
    v_sums: list[Any] = []
    for first in (False, True) if packed and not causal else (False,):
        for name, x_all, sums in (("summary_k", k, k_sums), ("summary_v", v, v_sums)):
            means = _ref_means(x_all, documents, chunk, first)
            sums.append(ref_cut_heads(means @ p[f"{name}.weight"] + p[f"{name}.bias"], heads))
    if rope:  # rotate each summary at every position of its chunk, and take the middle one
        k_sums = [ref_rope(np.repeat(sums, chunk, axis=2), 2)[:, :, chunk // 2 :: chunk] for sums in k_sums]
    q, k, v = (ref_cut_heads(operand, heads) for operand in (q, k, v))
    if rope:
        q, k = ref_rope(q, 2), ref_rope(k, 2)
    k_sum, v_sum = (np.concatenate(sums, axis=2) for sums in (k_sums, v_sums))
    how: dict[str, Any] = {"chunk": chunk, "causal": causal, "scale": 1 / q.shape[-1] ** 0.5}
    return ref_merged(x, p, ref_summary_attention(q, k, v, k_sum, v_sum, documents, **how))


def _ref_means(x: Any, documents: Any, chunk: int, first: bool) -> Any:
    """[b, t, d] -> [b, g, d], the mean over each chunk, or over one document in it if there are several."""
    if documents is not None:
        return ref_document_means(x, documents, chunk, first=first)
    means = [x[:, at : at + chunk].mean(1) for at in range(0, x.shape[1], chunk)]
    return np.stack(means, 1) if means else x


def _decompose_combiner(
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
    chunk: int,
    scope: str | None,
) -> Value:
    """Project the mean keys and values of each chunk, and rotate the keys to the middle of their chunk."""
    q, k, v = projected(b, norm_and_shift(b, x, p, documents, norm=norm, token_shift=token_shift), p)
    sides = sides_of(None if documents is None else documents.type, causal)

    def summaries(name: str, tokens: Value) -> list[Value]:
        means = (b.chunk_means(tokens, documents, chunk=chunk, causal=causal, first=first) for first in sides)
        return [cut_heads(b, b.dense(mean, p[f"{name}.weight"], p[f"{name}.bias"]), heads) for mean in means]

    k_sums, v_sums = summaries("summary_k", k), summaries("summary_v", v)
    q, k, v = (cut_heads(b, operand, heads) for operand in (q, k, v))
    if rope:
        q, k, k_sums = b.rope(q, axis=2), b.rope(k, axis=2), [b.rope_of_chunks(x, chunk=chunk) for x in k_sums]
    k_sum, v_sum = (sums[0] if len(sums) == 1 else b.concat(*sums, axis=2) for sums in (k_sums, v_sums))
    how = {"chunk": chunk, "causal": causal, "scale": inverse_root(q)}
    return merged(b, x, p, b.summary_attention(q, k, v, k_sum, v_sum, documents, **how))


combiner = define_op(
    OpDef(
        "combiner",
        ("x", "documents?"),
        infer=infer_heads,
        ref=_ref_combiner,
        cost=None,
        samples=(
            sample("f32[2, 7, 8]", heads=2, chunk=3),
            sample("f32[2, 7, 8]", heads=2, chunk=3, causal=False, norm="scale_norm"),
            sample("f32[1, 6, 6]", heads=1, chunk=2, causal=False, rope=False),
            sample("f32[1, 3, 4]", heads=1, chunk=5),
            sample("f32[1, 0, 4]", heads=1, chunk=4, causal=False),
            sample("f32[2, 7, 8]", "bool[2, 7]", heads=2, chunk=3),
            sample("f32[2, 7, 8]", "bool[2, 6]", heads=2, chunk=3, causal=False),
            sample("f32[1, 0, 4]", "bool[1, 0]", heads=1, chunk=4),
            sample("f32[2, 7, 8]", "bool[2, 6]", heads=2, chunk=3, token_shift=True),
        ),
        attrs={**HEADS, "chunk": CHUNK},
        decompose=_decompose_combiner,
        params=_params_combiner,
        scope=SCOPE,
        ignores_padding=where_causal,
        layer="Combiner",
        doc="x + softmax attention of norm(x) to its own chunk and to a summary of each other chunk",
        source="Appendix A",
    )
)
