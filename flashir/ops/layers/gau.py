"""gau: the gated attention unit with quadratic attention (Code 6), the layer of FLASH-Quad."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, ParamSpec, choice, define_op, flag, integer, sample
from flashir.ir.types import TensorType
from flashir.ops.attention.documents import check_documents, document_numbers, ref_lengths
from flashir.ops.attention.quadratic import KERNEL, ref_quadratic
from flashir.ops.functions.norm import accumulation_dtype, scaled
from flashir.ops.layers.blocks import Params
from flashir.ops.layers.gated_unit import (
    GATED,
    QK_SCALES,
    gated,
    gated_params,
    infer_gated,
    ref_gated,
    token_count,
)
from flashir.ops.layers.multi_head import cut_heads
from flashir.ops.layers.relative_bias import SHORT_SPAN, bias_of, ref_bias_of

LOG_BASE = log(512)
BY_LENGTH = ("length", "log_length", "root_length")
QK_SCALE_OF_GAU = choice(
    *QK_SCALES,
    "log_length",
    "root_length",
    default="length",
    doc="divisor of the scores: the length (Code 6); 1 (Eq. 5); max_len; sqrt(s); sqrt(s) ln 512 / ln(length), or "
    "sqrt(length) (GAU-alpha)",
)


def _infer_gau(x: TensorType, documents: TensorType | None = None, *, max_len: int, **attrs: Any) -> TensorType:
    length = x.shape[1] if x.rank == 3 else 0
    if max_len < SHORT_SPAN and attrs["rel_bias"] == "paper" and isinstance(length, int) and length > max_len:
        raise IRError(f"the relative bias spans max_len = {max_len} positions, the sequence has {length}: {x}")
    infer_gated(x, **attrs)
    check_documents(documents, *x.shape[:2])
    return x


def _params_gau(
    x: TensorType, documents: TensorType | None = None, *, max_len: int, **attrs: Any
) -> dict[str, ParamSpec]:
    return gated_params(x, 2, max_len, **attrs)


def _ref_gau(
    x: Any,
    documents: Any = None,
    *,
    p: Params,
    causal: bool,
    qk_scale: str,
    max_len: int,
    key_dim: int,
    bias_scale: str,
    heads: int,
    attention: str,
    **attrs: Any,
) -> Any:
    def attend(cheap: list[Any], v: Any) -> Any:
        n, width = v.shape[1], key_dim / heads
        length = max(n if attrs["valid"] is None else attrs["valid"], 1)
        length = length if documents is None else ref_lengths(documents, n)[..., None]
        divisor: Any = {"length": length, "none": 1, "max_len": max_len, "sqrt_key": width**0.5}.get(qk_scale)
        if divisor is None:
            divisor = np.sqrt(length) if qk_scale == "root_length" else width**0.5 * LOG_BASE / np.log(length + 1e-300)
        bias = ref_bias_of(p, attrs["rel_bias"], n, max_len, causal) / (length if bias_scale == "length" else 1)
        parts = zip(*(np.split(head, heads, axis=-1) for head in (*cheap, v)), strict=True)
        how: dict[str, Any] = {"causal": causal, "kernel": attention}
        return np.concatenate([ref_quadratic(q / divisor, k, v_h, bias, documents, **how) for q, k, v_h in parts], -1)

    return ref_gated(x, p, attend, documents, key_dim=key_dim, heads=heads, **attrs)


def _decompose_gau(
    b: Builder,
    x: Value,
    documents: Value | None = None,
    *,
    p: Params,
    qk_scale: str,
    max_len: int,
    bias_scale: str,
    heads: int,
    attention: str,
    scope: str | None,
    **attrs: Any,
) -> Value:
    n, valid = x.type.shape[1], attrs["valid"]
    numbers = None if documents is None else document_numbers(b, documents, n)

    def attend(cheap: list[Value], v: Value) -> Value:
        q, k = cheap
        root = (attrs["key_dim"] / heads) ** -0.5
        if qk_scale in BY_LENGTH:
            count = token_count(b, documents, n, valid, accumulation_dtype(q.type.dtype))
            q = scaled(b, q, _by_length(b, qk_scale, count, root))
        elif qk_scale != "none":
            q = b.mul(q, 1 / max_len if qk_scale == "max_len" else root)
        bias = bias_of(b, p, attrs["rel_bias"], n, max_len, attrs["causal"])
        if bias_scale == "length":
            bias = scaled(
                b, bias, b.reciprocal(token_count(b, documents, n, valid, accumulation_dtype(bias.type.dtype)))
            )
        if valid is not None and not attrs["causal"] and attention == "softmax":  # values of 0 still count in the sum
            bias = b.select(b.less(b.iota(length=n), b.size(value=valid)), bias, float("-inf"))
        if heads == 1:
            return b.quadratic_attention(q, k, v, bias, numbers, causal=attrs["causal"], kernel=attention)
        q, k, values = (cut_heads(b, x, heads) for x in (q, k, v))
        out = b.quadratic_attention(q, k, values, bias, numbers, causal=attrs["causal"], kernel=attention)
        return b.reshape(b.transpose(out, perm=(0, 2, 1, 3)), shape=v.type.shape)

    return gated(b, x, p, attend, documents, cheap=2, heads=heads, **attrs)


def _by_length(b: Builder, qk_scale: str, count: Value, root: float) -> Value:
    """The factor of the scores, from the number of tokens."""
    if qk_scale == "log_length":
        return b.mul(b.log(count), root / LOG_BASE)
    return b.reciprocal(b.sqrt(count) if qk_scale == "root_length" else count)


gau = define_op(
    OpDef(
        "gau",
        ("x", "documents?"),
        infer=_infer_gau,
        ref=_ref_gau,
        cost=None,
        samples=(
            sample("f32[2, 5, 4]", key_dim=6, max_len=7),
            sample("f32[2, 5, 4]", key_dim=6, max_len=600, causal=False),
            sample("f32[1, 3, 4]", key_dim=2, expansion=1.5, max_len=3, qk_scale="sqrt_key", norm="scale_norm"),
            sample("f32[1, 3, 4]", key_dim=2, max_len=4, qk_scale="max_len", causal=False),
            sample("f32[1, 0, 4]", key_dim=2, max_len=4),
            sample("f32[2, 5, 4]", key_dim=4, max_len=7, attention="softmax", heads=2, qk_scale="sqrt_key"),
            sample("f32[2, 5, 4]", key_dim=4, max_len=7, attention="laplace", gating=False),
            sample("f32[2, 5, 4]", key_dim=4, max_len=7, attention="softmax", causal=False),
            sample("f32[1, 0, 4]", key_dim=4, max_len=4, attention="softmax", heads=2, gating=False),
            sample("f32[2, 5, 4]", key_dim=6, max_len=4, rel_bias="t5", token_shift=True, rope_dims=4),
            sample("f32[1, 5, 3]", key_dim=8, max_len=5, heads=2, rope_dims=2, rope_interleaved=True, token_shift=True),
            sample("f32[1, 3, 4]", key_dim=4, causal=False, rel_bias="t5", rope_interleaved=True),
            sample("f32[1, 0, 4]", key_dim=4, max_len=4, token_shift=True),
            sample("f32[2, 5, 4]", "bool[2, 5]", key_dim=4, max_len=7, causal=False),
            sample("f32[2, 5, 4]", "bool[2, 5]", key_dim=4, max_len=7, attention="softmax", heads=2, causal=False),
            sample("f32[2, 7, 4]", "i32[2, 6]", key_dim=4, max_len=7, token_shift=True),
            sample("f32[2, 7, 4]", "i32[2, 7]", key_dim=4, max_len=7, attention="laplace", heads=2, causal=False),
            sample("f32[1, 0, 4]", "i32[1, 0]", key_dim=4, max_len=4, attention="softmax"),
            sample("f32[2, 5, 4]", key_dim=3, max_len=7, rope_dims=0, residual=False, bias_scale="length"),
            sample("f32[2, 5, 4]", "bool[2, 5]", key_dim=4, max_len=7, bias_scale="length", causal=False, heads=2),
            sample("f32[2, 5, 4]", "i32[2, 5]", key_dim=4, max_len=7, bias_scale="length", attention="laplace"),
            sample("f32[2, 5, 4]", key_dim=4, max_len=7, norm="none", qk_scale="log_length", attention="softmax"),
            sample("f32[2, 5, 4]", "i32[2, 5]", key_dim=4, max_len=7, qk_scale="log_length", expanded=5),
            sample("f32[2, 5, 4]", "bool[2, 5]", key_dim=4, max_len=7, qk_scale="root_length", causal=False),
            sample("f32[2, 5, 4]", key_dim=4, max_len=7, norm="scale_norm", norm_eps=0.5, norm_clamp=True),
        ),
        attrs={
            **GATED,
            "qk_scale": QK_SCALE_OF_GAU,
            "max_len": integer(8192, least=1, doc="span of the relative bias"),
            "attention": KERNEL,
            "heads": integer(1, least=1, doc="parts that attend separately, of width s / heads (Table 1)"),
            "gating": flag(True, doc="multiply the result of attention by u; if false, concatenate them (Table 1)"),
            "bias_scale": choice("none", "length", default="none", doc="divisor of the relative bias"),
        },
        decompose=_decompose_gau,
        params=_params_gau,
        scope="layers",
        layer="GAU",
        doc="gated attention unit with quadratic attention",
        source="Code 6",
    )
)
