"""flash: the gated attention unit with mixed chunk attention (Code 8), the layer of FLASH."""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.dims import Size, ceildiv, divides
from flashir.ir.graph import AUTO, Value
from flashir.ir.op import OpDef, ParamSpec, choice, define_op, flag, integer, text
from flashir.ir.traits import each_row_alone
from flashir.ir.types import DType, TensorType
from flashir.ops.attention.chunk_choices import CUMSUM, chunk_size
from flashir.ops.attention.chunks import (
    check_segments_and_documents,
    chunked,
    chunked_documents,
    overlapping_chunks,
    unchunked,
)
from flashir.ops.attention.documents import are_packed, ref_lengths
from flashir.ops.attention.linear import LIN_NORMS
from flashir.ops.attention.own_chunk import own_part, ref_own
from flashir.ops.attention.quadratic import KERNEL
from flashir.ops.attention.recurrence_parts import local_part
from flashir.ops.attention.recurrence_reference import ref_recurrence
from flashir.ops.attention.summary_weights import ref_summary_weights
from flashir.ops.functions.norm import accumulation_dtype, scaled
from flashir.ops.functions.position import ref_rope_bias
from flashir.ops.layers.blocks import WEIGHT_STD, Params
from flashir.ops.layers.flash_samples import flash_samples
from flashir.ops.layers.gated_unit import (
    GATED,
    PAPER_CHUNK,
    QK_SCALE,
    gated,
    gated_params,
    infer_gated,
    ref_gated,
    token_count,
)
from flashir.ops.layers.relative_bias import BIAS_WIDTH, bias_of, ref_bias_of
from flashir.ops.primitive.shape import pad_to_multiple

LIN_NORM_OF_FLASH = choice(
    *LIN_NORMS,
    "length",
    default="chunk_mean",
    doc="global part: plain sum (none, Eq. 8), divided by the chunk (chunk), averaged over visible chunks (chunk_mean, "
    "Code 8), or divided by the length (length, for bidirectional models)",
)
HEADS = ("quad_q", "quad_k", "lin_q", "lin_k", "sum_q", "sum_k")


def cheap_heads(use_local: bool, use_global: bool, summaries: str, head_order: str, **_: Any) -> list[str]:
    """The cheap heads that the parts need, in the order of `head_order`. Raises IRError if one is missing."""
    if not (use_local or use_global):
        raise IRError("flash needs its local part, its global part, or both")
    if summaries == "attend" and not use_global:
        raise IRError("summaries of chunks attend in the global part, which is off")
    needed = HEADS[:2] * use_local + HEADS[2:4] * use_global + HEADS[4:] * (summaries == "attend")
    order = head_order.split()
    if len(set(order)) != len(order) or not set(needed) <= set(order) <= set(HEADS):
        raise IRError(f"head_order must name {', '.join(needed)}, each once, got {head_order!r}")
    return [name for name in order if name in needed]


def _span(chunk: Any, overlap: bool) -> int:
    """The number of positions that the bias spans: those that a chunk sees."""
    return (PAPER_CHUNK if chunk is AUTO else chunk) * (2 if overlap else 1)


def _params_flash(
    x: TensorType,
    segment_ids: TensorType | None = None,
    documents: TensorType | None = None,
    *,
    chunk: Any,
    use_local: bool,
    overlap: bool,
    summaries: str,
    **attrs: Any,
) -> dict[str, ParamSpec]:
    cheap = cheap_heads(use_local, summaries=summaries, **attrs)
    own_params = gated_params(x, len(cheap), _span(chunk, overlap) if use_local else None, **attrs)
    summary_bias = {f"sum_bias.{name}": ParamSpec((BIAS_WIDTH,), std=WEIGHT_STD) for name in "ab"}
    return {**own_params, **(summary_bias if summaries == "attend" else {})}


def _infer_flash(
    x: TensorType, segment_ids: TensorType | None = None, documents: TensorType | None = None, **attrs: Any
) -> TensorType:
    cheap_heads(**attrs)
    _check_parts(**attrs)
    infer_gated(x, **attrs)
    check_segments_and_documents(segment_ids, documents, x, x.shape[1] if attrs["valid"] is None else attrs["valid"])
    packed = documents is not None and are_packed(documents)
    if packed and attrs["summaries"] == "attend" and not attrs["causal"]:
        raise IRError("summaries = attend cannot separate documents in a bidirectional model")
    return x


def _check_parts(
    *,
    use_local: bool,
    use_global: bool,
    overlap: bool,
    causal: bool,
    lin_norm: str,
    reduce_groups: bool,
    summaries: str,
    **_: Any,
) -> None:
    """Raise IRError if the settings of the parts contradict each other."""
    if overlap and not use_local:
        raise IRError("chunks overlap in the local part, which is off")
    if causal and lin_norm == "length":
        raise IRError(
            "lin_norm = length needs the whole length, which a causal model does not see",
            hint="use chunk or chunk_mean",
        )
    if not reduce_groups and (causal or summaries == "attend" or not use_global):
        raise IRError("reduce_groups = false needs a bidirectional global part with summaries = sum")


def _divisor(qk_scale: str, chunk: int, key_dim: int, max_len: int, **_: Any) -> float:
    return float({"length": chunk, "none": 1, "max_len": max_len, "sqrt_key": key_dim**0.5}[qk_scale])


def _ref_flash(x: Any, segment_ids: Any = None, documents: Any = None, *, p: Params, **attrs: Any) -> Any:
    chunk, causal, overlap = attrs["chunk"], attrs["causal"], attrs["overlap"]

    def attend(cheap: list[Any], v: Any) -> Any:
        named = dict.fromkeys(HEADS, np.zeros((*v.shape[:2], attrs["key_dim"])))
        named |= dict(zip(cheap_heads(**attrs), cheap, strict=True))
        span = _span(chunk, overlap)
        bias = (
            ref_bias_of(p, attrs["rel_bias"], span, span, causal) if attrs["use_local"] else np.full((span, span), -1.0)
        )
        attended = attrs["summaries"] == "attend"
        lin_norm = attrs["lin_norm"]
        if lin_norm == "length":
            counts = None if documents is None else ref_lengths(documents, v.shape[1])[..., None]
            named["lin_q"] = named["lin_q"] / (max(v.shape[1], 1) if counts is None else counts)
            lin_norm = "none"
        own: Any = 0
        if not attrs["reduce_groups"]:
            own = ref_own(named["lin_q"], named["lin_k"], v, documents, chunk) / (1 if lin_norm == "none" else chunk)
            named["lin_q"] = np.zeros_like(named["lin_q"])
        return own + ref_recurrence(
            v,
            named["quad_q"] / _divisor(**attrs),
            named["quad_k"],
            bias,
            named["lin_q"],
            named["lin_k"],
            None,
            segment_ids,
            documents,
            chunk=chunk,
            causal=causal,
            lin_norm=lin_norm,
            kernel=attrs["attention"] if attrs["use_local"] else "relu2",
            overlap=overlap,
            chunk_weights=_ref_weights(named["sum_q"], named["sum_k"], documents, p, chunk, causal)
            if attended
            else None,
        )

    return ref_gated(x, p, attend, documents, **attrs)


def _ref_weights(q: Any, k: Any, documents: Any, p: Params, chunk: int, causal: bool) -> Any:
    """The weights of chunks for each other, [b, g, h]."""
    length = q.shape[1]
    bias = ref_rope_bias(p["sum_bias.a"], p["sum_bias.b"], -(-length // chunk))
    q, k = _ref_chunked(q, chunk, length), _ref_chunked(k, chunk, length)
    documents = None if documents is None else _ref_chunked(documents, chunk, length)
    return ref_summary_weights(q, k, bias, documents, causal=causal, tokens=length)


def _ref_chunked(x: Any, chunk: int, length: int) -> Any:
    """[b, t, *] -> [b, g, chunk, *], padded with zeros"""
    chunks = -(-length // chunk)
    whole = np.zeros((x.shape[0], chunks * chunk, *x.shape[2:]), x.dtype)
    whole[:, : x.shape[1]] = x[:, :length]
    return whole.reshape(x.shape[0], chunks, chunk, *x.shape[2:])


def _decompose_flash(
    b: Builder,
    x: Value,
    segment_ids: Value | None = None,
    documents: Value | None = None,
    *,
    p: Params,
    scope: str | None,
    **attrs: Any,
) -> Value:
    """A gated unit whose attention is mixed chunk attention, on whole chunks of tokens."""
    chunk, valid, t = attrs["chunk"], attrs["valid"], x.type.shape[1]
    whole = t if valid is None or attrs["causal"] else ceildiv(valid, chunk) * chunk
    if not divides(chunk, t) or whole != t:  # pad once, on the narrow residual stream, and leave out empty chunks
        settings = {**attrs, "scope": scope, "valid": t if valid is None else valid}
        padded = pad_to_multiple(b, x, 1, chunk) if whole == t else b.slice(x, axis=1, stop=whole)
        out = b.flash(padded, segment_ids, documents, **settings)
        return b.slice(out, axis=1, stop=t) if whole == t else b.pad(out, axis=1, after=t - whole)

    def attend(cheap: list[Value], v: Value) -> Value:
        heads = _scaled_heads(b, cheap, documents, t, attrs)
        return _attend(b, heads, v, segment_ids, documents, p, attrs)

    gated_attrs = {name: attrs[name] for name in GATED}
    return gated(b, x, p, attend, documents, cheap=len(cheap_heads(**attrs)), **gated_attrs)


def _scaled_heads(
    b: Builder, cheap: list[Value], documents: Value | None, t: Size, attrs: dict[str, Any]
) -> dict[str, Value]:
    """The cheap heads by name. Local queries are divided by `qk_scale`, and with lin_norm = length the global part."""
    heads = dict(zip(cheap_heads(**attrs), cheap, strict=True))
    if attrs["use_local"]:
        heads["quad_q"] = b.mul(heads["quad_q"], 1 / _divisor(**attrs))
    if attrs["use_global"] and attrs["lin_norm"] == "length":
        count = token_count(b, documents, t, attrs["valid"], accumulation_dtype(cheap[0].type.dtype))
        heads |= _divided(b, heads["lin_q"], heads["lin_k"], count)
    return heads


def _attend(
    b: Builder,
    heads: dict[str, Value],
    v: Value,
    segment_ids: Value | None,
    documents: Value | None,
    p: Params,
    attrs: dict[str, Any],
) -> Value:
    """Mixed chunk attention: the sum of the local and the global part, of which one may be absent, [b, t, e]."""
    bias, chunk, use_local = None, attrs["chunk"], attrs["use_local"]
    if use_local:
        span = _span(chunk, attrs["overlap"])
        bias = bias_of(b, p, attrs["rel_bias"], span, span, attrs["causal"])
    lin_norm = "none" if attrs["lin_norm"] == "length" else attrs["lin_norm"]  # `_scaled_heads` has divided already
    tokens = _visible_tokens(b, v, documents, attrs)
    if attrs["summaries"] == "attend":
        return _attended(b, heads, v, bias, segment_ids, tokens, p, {**attrs, "lin_norm": lin_norm})
    own = None
    if not attrs["reduce_groups"]:  # the global part sums over its own chunk alone
        own = own_part(b, heads.pop("lin_q"), heads.pop("lin_k"), v, documents, chunk, lin_norm)
        if not use_local:
            return own
    quad_q, quad_k, lin_q, lin_k = (heads.get(name) for name in HEADS[:4])
    parts = (quad_q, quad_k, bias, lin_q, lin_k, None, None if lin_q is None else segment_ids, tokens)
    settings = {name: attrs[name] for name in ("chunk", "causal", "cumsum", "overlap")}
    out = b.chunked_recurrence(v, *parts, **settings, lin_norm=lin_norm, kernel=attrs["attention"])
    return out if own is None else b.add(out, own)


def _visible_tokens(b: Builder, v: Value, documents: Value | None, attrs: dict[str, Any]) -> Value | None:
    """`documents`, or a mask of the tokens if padded zeros would count in the sum of a softmax."""
    if documents is not None or attrs["causal"] or attrs["valid"] is None or attrs["attention"] != "softmax":
        return documents
    batch, t = v.type.shape[:2]
    return b.broadcast(b.less(b.iota(length=t), b.size(value=attrs["valid"])), shape=(batch, t))


def _divided(b: Builder, q: Value, k: Value, count: Value) -> dict[str, Value]:
    """The heads of the global part divided by the number of tokens. In float16 each head is divided by its root."""
    if q.type.dtype is not DType.F16:
        return {"lin_q": scaled(b, q, b.reciprocal(count))}
    share = b.reciprocal(b.sqrt(count))
    return {"lin_q": scaled(b, q, share), "lin_k": scaled(b, k, share)}


def _attended(
    b: Builder,
    heads: dict[str, Value],
    v: Value,
    bias: Value | None,
    segment_ids: Value | None,
    documents: Value | None,
    p: Params,
    attrs: dict[str, Any],
) -> Value:
    """Both parts, where summaries of chunks weigh their states (Appendix A)."""
    chunk, causal = attrs["chunk"], attrs["causal"]
    parts = {name: chunked(b, head, chunk) for name, head in heads.items()}
    values = chunked(b, v, chunk)
    documents = None if documents is None else chunked_documents(b, documents, chunk, values.type.shape[1])
    visible = overlapping_chunks(b, segment_ids, chunk, values.type.shape[1], documents)
    sums = {name: attrs[name] for name in ("causal", "cumsum", "lin_norm")}
    weights = _weights(b, parts, documents, p, attrs)
    out = b.linear_attention(parts["lin_q"], parts["lin_k"], values, visible, weights, documents, **sums)
    if bias is not None:
        local = local_part(
            b, parts["quad_q"], parts["quad_k"], values, bias, documents, causal, attrs["overlap"], attrs["attention"]
        )
        out = b.add(local, out)
    return unchunked(b, out, v.type.shape[1])


def _weights(b: Builder, parts: dict[str, Value], documents: Value | None, p: Params, attrs: dict[str, Any]) -> Value:
    """The weights of chunks for each other by their summaries (Appendix A), [b, g, h]."""
    bias = b.rope_rel_pos_bias(p["sum_bias.a"], p["sum_bias.b"], n=parts["sum_q"].type.shape[1])
    heads = (parts["sum_q"], parts["sum_k"], bias, documents)
    return b.summary_weights(*heads, causal=attrs["causal"], tokens=attrs["valid"])


flash = define_op(
    OpDef(
        "flash",
        ("x", "segment_ids?", "documents?"),
        infer=_infer_flash,
        ref=_ref_flash,
        cost=None,
        samples=flash_samples(),
        attrs={
            **GATED,
            "chunk": chunk_size("tokens that attend to each other quadratically"),
            "cumsum": CUMSUM,
            "lin_norm": LIN_NORM_OF_FLASH,
            "qk_scale": QK_SCALE,
            "use_local": flag(True, doc="quadratic attention within chunks"),
            "use_global": flag(True, doc="linear attention between chunks"),
            "overlap": flag(False, doc="each chunk also sees the previous chunk (section 3.2.1)"),
            "summaries": choice(
                "sum",
                "attend",
                default="sum",
                doc="states of chunks: summed, or weighted by their summaries (Appendix A)",
            ),
            "head_order": text(" ".join(HEADS), doc="the cheap heads in the order of the rows of gamma and beta"),
            "max_len": integer(8192, least=1, doc="the divisor of qk_scale = max_len"),
            "attention": KERNEL,
            "reduce_groups": flag(True, doc="the bidirectional global part sees all chunks; if false, only its own"),
        },
        decompose=_decompose_flash,
        params=_params_flash,
        scope="layers",
        ignores_padding=each_row_alone,
        layer="FLASH",
        doc="gated attention unit with mixed chunk attention",
        source="Code 8",
    )
)
