"""mhsa: multi-head self-attention, the attention of the transformers, with the changes of Table 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flashir.ir.builder import Builder
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, choice, define_op, flag, sample
from flashir.ops.attention.documents import document_lengths, document_numbers, ref_lengths
from flashir.ops.attention.quadratic import ref_quadratic
from flashir.ops.attention.softmax import ref_softmax_attention
from flashir.ops.decode.context import column, with_rank
from flashir.ops.functions.norm import accumulation_dtype, scaled
from flashir.ops.layers.blocks import Params
from flashir.ops.layers.multi_head import (
    HEADS,
    SCOPE,
    cut_heads,
    head_params,
    infer_heads,
    inverse_root,
    multi_head,
    ref_cut_heads,
    ref_multi_head,
)
from flashir.ops.layers.token_shift import norm_and_shift, ref_norm_and_shift


def _ref_mhsa(
    x: Any, documents: Any = None, *, p: Params, causal: bool, attention: str, gating: bool, **attrs: Any
) -> Any:
    def attend(q: Any, k: Any, v: Any) -> Any:
        length, s = q.shape[-2:]
        if attention == "softmax":
            out = ref_softmax_attention(q, k, v, documents, causal=causal, scale=1 / s**0.5)
        else:
            tokens = max(length, 1) if documents is None else ref_lengths(documents, length)[:, None, :, None]
            out = ref_quadratic(q / s**0.5, k, v, 0, documents, causal=causal) / tokens
        if gating:
            read = ref_norm_and_shift(x, p, documents, norm=attrs["norm"], token_shift=attrs["token_shift"])
            gate = read @ p["gate.weight"] + p["gate.bias"]
            out = out * ref_cut_heads(gate / (1 + np.exp(-gate)), attrs["heads"])
        return out

    return ref_multi_head(x, p, attend, documents, **attrs)


def _decompose_mhsa(
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
    attention: str,
    gating: bool,
    scope: str | None,
) -> Value:
    def attend(q: Value, k: Value, v: Value) -> Value:
        if attention == "softmax":
            out = b.softmax_attention(q, k, v, documents, causal=causal, scale=inverse_root(q))
        else:
            out = _relu2_attention(b, q, k, v, documents, causal)
        if gating:
            read = norm_and_shift(b, x, p, documents, norm=norm, token_shift=token_shift)
            gate = b.silu(b.dense(read, p["gate.weight"], p["gate.bias"]))
            out = b.mul(out, cut_heads(b, gate, heads))
        return out

    return multi_head(b, x, p, attend, documents, heads=heads, norm=norm, rope=rope, token_shift=token_shift)


def _ignores_padding(attrs: Mapping[str, Any]) -> bool:
    """With relu2, attention is a mean over all rows including padding."""
    return attrs["causal"] is True and attrs["attention"] == "softmax"


def _relu2_attention(b: Builder, q: Value, k: Value, v: Value, documents: Value | None, causal: bool) -> Value:
    """relu2(q k^T / sqrt(s)) v / t. The factor 1 / t of the mean goes under the square as 1 / sqrt(t)."""
    length, dtype = q.type.shape[2], q.type.dtype
    if documents is None:
        tokens = b.maximum(b.size(value=length, dtype=accumulation_dtype(dtype)), 1.0)
    else:
        tokens = with_rank(b, column(b, document_lengths(b, documents, length, accumulation_dtype(dtype))), 4)
        documents = document_numbers(b, documents, length)
    q = scaled(b, q, b.mul(b.reciprocal(b.sqrt(tokens)), inverse_root(q)))
    bias = b.broadcast(b.constant(0.0, dtype), shape=(length, length))
    return b.quadratic_attention(q, k, v, bias, documents, causal=causal)


mhsa = define_op(
    OpDef(
        "mhsa",
        ("x", "documents?"),
        infer=infer_heads,
        ref=_ref_mhsa,
        cost=None,
        samples=(
            sample("f32[2, 5, 8]", heads=2),
            sample("f32[2, 5, 8]", heads=2, causal=False, norm="scale_norm"),
            sample("f32[1, 3, 6]", heads=2, rope=False),
            sample("f32[1, 0, 4]", heads=1),
            sample("f32[2, 5, 8]", heads=2, attention="relu2"),
            sample("f32[2, 5, 8]", heads=2, attention="relu2", causal=False, gating=True),
            sample("f32[2, 5, 8]", heads=1, gating=True),
            sample("f32[1, 0, 4]", heads=1, attention="relu2", gating=True),
            sample("f32[2, 5, 8]", "i32[2, 4]", heads=2, gating=True, token_shift=True),
            *(
                sample("f32[2, 5, 8]", documents, heads=2, attention=attention, causal=causal)
                for documents in ("bool[2, 5]", "i32[2, 4]")
                for attention in ("softmax", "relu2")
                for causal in (True, False)
            ),
        ),
        attrs={
            **HEADS,
            "attention": choice(
                "softmax", "relu2", default="softmax", doc="function of the scores; relu2 takes the mean (Table 2)"
            ),
            "gating": flag(False, doc="multiply the result of attention by silu(norm(x) W_gate) (Table 2)"),
        },
        decompose=_decompose_mhsa,
        params=head_params,
        scope=SCOPE,
        ignores_padding=_ignores_padding,
        layer="Attention",
        doc="x + multi-head softmax attention of norm(x), with RoPE",
        source="Vaswani et al. 2017",
    )
)
