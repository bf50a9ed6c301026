"""The gated blocks: gau with quadratic attention (Code 6), flash with mixed chunk attention (Code 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.dims import Size, divides
from flashir.ir.graph import AUTO
from flashir.ir.types import DType, TensorType
from flashir.ops.attention import CUMSUM, LIN_NORM, _ref_mixed, _ref_quadratic, chunked, overlapping_chunks, unchunked
from flashir.ops.blocks import WEIGHT_STD, Params, apply_norm, check_tokens, norm_params, ref_norm, width_of
from flashir.ops.costs import Contraction, Cost, Types, elementwise, moved
from flashir.ops.norm import as_dtype
from flashir.ops.opdef import AttrSpec, OpDef, ParamSpec, choice, define_op, flag, integer, number, sample, size
from flashir.ops.position import _ref_bias, _ref_rope, _ref_rope_bias
from flashir.ops.shape import pad_to_multiple

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Value

SHORT_SPAN = 512  # below it the bias has one weight a distance (Code 4)
BIAS_WIDTH = 128
PAPER_CHUNK = 256  # Tables 5 and 6


def _infer_offset_scale(z: TensorType, gamma: TensorType, beta: TensorType) -> TensorType:
    if z.rank != 3 or gamma.rank != 2 or gamma != beta or gamma.shape[1] != z.shape[2]:
        raise IRError(f"z must be [b, t, s], gamma and beta [h, s], got {z}, {gamma}, {beta}")
    return z.with_shape((z.shape[0], gamma.shape[0], *z.shape[1:]))


def _decompose_offset_scale(b: Builder, z: Value, gamma: Value, beta: Value) -> Value:
    """z[b, 1, t, s] * gamma[h, 1, s] + beta[h, 1, s]"""
    batch, length, s = z.type.shape
    rows = (gamma.type.shape[0], 1, s)
    scaled = b.mul(b.reshape(z, shape=(batch, 1, length, s)), b.reshape(gamma, shape=rows))
    return b.add(scaled, b.reshape(beta, shape=rows))


offset_scale = define_op(
    OpDef("offset_scale", ("z", "gamma", "beta"), _infer_offset_scale,
          lambda z, gamma, beta: np.einsum("bts,hs->bhts", z, gamma) + beta[None, :, None, :], elementwise(2),
          (sample("f32[2, 3, 4]", "f32[5, 4]", "f32[5, 4]"),), decompose=_decompose_offset_scale,
          doc="cheap heads of one z: each scaled and shifted by vectors of its own, [b, t, s] -> [b, h, t, s] (Code 1)")
)

GATED: dict[str, AttrSpec] = {
    "expansion": number(2, least=0, doc="e = expansion * d"),
    "key_dim": integer(128, least=2, doc="s, width of queries and keys; even, for rope"),
    "causal": flag(True, doc="a token sees none after it"),
    "norm": choice("layer_norm", "scale_norm", default="layer_norm"),
    "valid": size(None, doc="how many rows are tokens, where the rest is padding"),
}


def expanded(x: TensorType, expansion: float) -> int:
    """e, the expanded width. Raises IRError where it is not a whole number."""
    width = width_of(x) * expansion
    if width != int(width) or width < 1:
        raise IRError(f"expansion {expansion} of width {width_of(x)} gives {width}, which is no whole width")
    return int(width)


def bias_params(span: int) -> dict[str, ParamSpec]:
    """The relative bias over `span` positions (Code 4): short spans have a weight a distance."""
    if span < SHORT_SPAN:
        return {"rel_bias.w": ParamSpec((2 * span - 1,), std=WEIGHT_STD)}
    return {f"rel_bias.{name}": ParamSpec((BIAS_WIDTH,), std=WEIGHT_STD) for name in "ab"}


def gated_params(x: TensorType, expansion: float, key_dim: int, norm: str, heads: int, span: int | None) -> dict[str, ParamSpec]:
    """The parameters of a gated block with that many cheap heads, and a bias where there is a span."""
    d, e = width_of(x), expanded(x, expansion)
    inside = 2 * e + key_dim
    return {
        **norm_params(norm, d, "norm."),
        "proj_in.weight": ParamSpec((d, inside), std=WEIGHT_STD),
        "proj_in.bias": ParamSpec((inside,)),
        "offset_scale.gamma": ParamSpec((heads, key_dim), std=WEIGHT_STD),
        "offset_scale.beta": ParamSpec((heads, key_dim)),
        **({} if span is None else bias_params(span)),
        "proj_out.weight": ParamSpec((e, d), std=WEIGHT_STD),
        "proj_out.bias": ParamSpec((d,)),
    }


def _bias(b: Builder, p: Params, n: Size, span: int) -> Value:
    if span < SHORT_SPAN:
        return b.rel_pos_bias(p["rel_bias.w"], n=n)
    return b.rope_rel_pos_bias(p["rel_bias.a"], p["rel_bias.b"], n=n)


def _ref_bias_of(p: Params, n: int, span: int) -> Any:
    return _ref_bias(p["rel_bias.w"], n) if span < SHORT_SPAN else _ref_rope_bias(p["rel_bias.a"], p["rel_bias.b"], n)


Attend = Callable[..., Any]


def _gated(
    b: Builder, x: Value, p: Params, attend: Attend, *,
    expansion: float, key_dim: int, norm: str, causal: bool, valid: Size | None, heads: int,
) -> Value:
    """x + (u * attend(heads, v)) W_out, with [u, v, z] = silu(norm(x) W_in) and cheap heads of z (Code 8)."""
    e, t = expanded(x.type, expansion), x.type.shape[1]
    h = b.dense(apply_norm(b, x, p, norm, "norm."), p["proj_in.weight"], p["proj_in.bias"])
    u, v, z = b.results("split", b.silu(h), axis=-1, sizes=(e, e, key_dim))
    if valid is not None and not causal:  # rows that pad come after all tokens, so a causal token never sees them
        token = b.reshape(b.less(b.iota(length=t), b.size(value=valid)), shape=(t, 1))
        v = b.select(token, v, 0.0)
    queries = b.rope(b.offset_scale(z, p["offset_scale.gamma"], p["offset_scale.beta"]), axis=2)
    apart = b.results("split", queries, axis=1, sizes=(1,) * heads)
    out = b.dense(b.mul(u, attend([b.reshape(q, shape=z.type.shape) for q in apart], v)), p["proj_out.weight"], p["proj_out.bias"])
    return b.add(out, x)


def _ref_gated(
    x: Any, p: Params, attend: Attend, *,
    expansion: float, key_dim: int, norm: str, valid: int | None, **_: Any,
) -> Any:
    tokens = x if valid is None else x[:, :valid]
    e = int(x.shape[-1] * expansion)
    h = ref_norm(tokens, p, norm, "norm.") @ p["proj_in.weight"] + p["proj_in.bias"]
    u, v, z = np.split(h / (1 + np.exp(-h)), [e, 2 * e], axis=-1)
    base = _ref_rope(z[:, :, None, :] * p["offset_scale.gamma"] + p["offset_scale.beta"], 1)
    heads = [base[:, :, i] for i in range(base.shape[2])]
    out = np.zeros_like(x)
    out[:, : tokens.shape[1]] = (u * attend(heads, v)) @ p["proj_out.weight"] + p["proj_out.bias"] + tokens
    return out


def _infer_gated(x: TensorType, expansion: float, key_dim: int, **_: Any) -> TensorType:
    check_tokens(x)
    expanded(x, expansion)
    if key_dim % 2:
        raise IRError(f"key_dim must be even, for rope turns pairs, got {key_dim}")
    return x


QK_SCALE = choice(
    "length", "none", "max_len", "sqrt_key", default="length",
    doc="scores divided by: the length, or the chunk in flash (Code 6, 8); nothing (Eq. 5); max_len; sqrt(s)",
)


def _params_gau(x: TensorType, expansion: float, key_dim: int, norm: str, max_len: int, **_: Any) -> dict[str, ParamSpec]:
    return gated_params(x, expansion, key_dim, norm, 2, max_len)


def _ref_gau(x: Any, p: Params, *, causal: bool, qk_scale: str, max_len: int, key_dim: int, **attrs: Any) -> Any:
    def attend(heads: list[Any], v: Any) -> Any:
        q, k = heads
        n = v.shape[1]
        divisor = {"length": max(n, 1), "none": 1, "max_len": max_len, "sqrt_key": key_dim**0.5}[qk_scale]
        return _ref_quadratic(q / divisor, k, v, _ref_bias_of(p, n, max_len), causal)

    return _ref_gated(x, p, attend, key_dim=key_dim, **attrs)


def _decompose_gau(
    b: Builder, x: Value, p: Params, *, qk_scale: str, max_len: int, scope: str | None, **attrs: Any
) -> Value:
    n = x.type.shape[1]

    def attend(heads: list[Value], v: Value) -> Value:
        q, k = heads
        if qk_scale == "length":
            length = b.size(value=attrs["valid"] or n, dtype=DType.F32)
            q = b.mul(q, as_dtype(b, b.reciprocal(b.maximum(length, 1.0)), q.type.dtype))
        elif qk_scale != "none":
            q = b.mul(q, 1 / max_len if qk_scale == "max_len" else attrs["key_dim"] ** -0.5)
        return b.quadratic_attention(q, k, v, _bias(b, p, n, max_len), causal=attrs["causal"])

    return _gated(b, x, p, attend, heads=2, **attrs)


def _cost_gated(ins: Types, outs: Types, *, expansion: float, key_dim: int, span: Callable[[int], int], **_: Any) -> Cost:
    x = ins[0]
    assert x is not None
    batch, t, d = x.sizes
    e, traffic = int(d * expansion), moved(ins, outs)
    products = (
        Contraction(1, batch * t, d, 2 * e + key_dim), Contraction(batch, t, key_dim, span(t)),
        Contraction(batch, t, span(t), e), Contraction(1, batch * t, e, d),
    )
    return Cost(30.0 * batch * t * e, traffic.read, traffic.written, contractions=products)


gau = define_op(
    OpDef("gau", ("x",), _infer_gated, _ref_gau,
          lambda ins, outs, **attrs: _cost_gated(ins, outs, span=lambda t: t, **attrs),
          (sample("f32[2, 5, 4]", key_dim=6, max_len=7), sample("f32[2, 5, 4]", key_dim=6, max_len=600, causal=False),
           sample("f32[1, 3, 4]", key_dim=2, expansion=1.5, max_len=3, qk_scale="sqrt_key", norm="scale_norm"),
           sample("f32[1, 3, 4]", key_dim=2, max_len=4, qk_scale="max_len", causal=False),
           sample("f32[1, 0, 4]", key_dim=2, max_len=4)),
          attrs={**GATED, "qk_scale": QK_SCALE, "max_len": integer(8192, least=1, doc="span of the relative bias")},
          decompose=_decompose_gau, params=_params_gau, scope="layers",
          doc="gated attention unit with quadratic attention (Code 6)")
)


def _params_flash(
    x: TensorType, segment_ids: TensorType | None = None, *, expansion: float, key_dim: int, norm: str, chunk: Any, use_local: bool, use_global: bool, **_: Any
) -> dict[str, ParamSpec]:
    span = (PAPER_CHUNK if chunk is AUTO else chunk) if use_local else None
    return gated_params(x, expansion, key_dim, norm, 2 * (use_local + use_global), span)


def _infer_flash(
    x: TensorType, segment_ids: TensorType | None = None, *, use_local: bool, use_global: bool, **attrs: Any
) -> TensorType:
    if not (use_local or use_global):
        raise IRError("flash needs its local part, its global part, or both")
    if segment_ids is not None:
        valid = x.shape[1] if attrs["valid"] is None else attrs["valid"]
        if segment_ids.dtype not in (DType.I32, DType.I64) or segment_ids.shape != (x.shape[0], valid):
            raise IRError(f"segment_ids must be whole numbers of shape ({x.shape[0]}, {valid}), got {segment_ids}")
    return _infer_gated(x, **attrs)


def _flash_divisor(qk_scale: str, chunk: int, key_dim: int, max_len: int) -> float:
    return float({"length": chunk, "none": 1, "max_len": max_len, "sqrt_key": key_dim**0.5}[qk_scale])


def _ref_flash(
    x: Any, segment_ids: Any = None, *, p: Params, chunk: int, causal: bool, cumsum: str, lin_norm: str,
    qk_scale: str, max_len: int, use_local: bool, use_global: bool, key_dim: int, **attrs: Any,
) -> Any:
    def attend(heads: list[Any], v: Any) -> Any:
        none = [np.zeros(v.shape[:2] + (key_dim,))] * 2
        quad_q, quad_k = heads[:2] if use_local else none
        lin_q, lin_k = heads[-2:] if use_global else none
        bias = _ref_bias_of(p, chunk, chunk) if use_local else np.full((chunk, chunk), -1.0)
        divisor = _flash_divisor(qk_scale, chunk, key_dim, max_len)
        return _ref_mixed(
            quad_q / divisor, quad_k, lin_q, lin_k, v, bias, segment_ids,
            chunk=chunk, causal=causal, cumsum=cumsum, lin_norm=lin_norm,
        )

    return _ref_gated(x, p, attend, key_dim=key_dim, **attrs)


def _decompose_flash(
    b: Builder, x: Value, segment_ids: Value | None = None, *, p: Params, chunk: int, qk_scale: str, max_len: int,
    use_local: bool, use_global: bool, cumsum: str, lin_norm: str, scope: str | None, **attrs: Any,
) -> Value:
    t = x.type.shape[1]
    if not divides(chunk, t):  # pad once, on the narrow residual stream
        settings = dict(
            attrs, chunk=chunk, qk_scale=qk_scale, max_len=max_len, use_local=use_local, use_global=use_global,
            cumsum=cumsum, lin_norm=lin_norm, scope=scope, valid=t,
        )
        return b.slice(b.flash(pad_to_multiple(b, x, 1, chunk), segment_ids, **settings), axis=1, stop=t)

    def attend(heads: list[Value], v: Value) -> Value:
        if use_local:
            heads[0] = b.mul(heads[0], 1 / _flash_divisor(qk_scale, chunk, attrs["key_dim"], max_len))
        if use_local and use_global:
            return b.mixed_chunk_attention(
                *heads, v, _bias(b, p, chunk, chunk), segment_ids,
                chunk=chunk, causal=attrs["causal"], cumsum=cumsum, lin_norm=lin_norm,
            )
        q, k, values = (chunked(b, part, chunk) for part in (*heads, v))
        if use_local:
            out = b.quadratic_attention(q, k, values, _bias(b, p, chunk, chunk), causal=attrs["causal"])
        else:
            visible = None if segment_ids is None else overlapping_chunks(b, segment_ids, chunk, values.type.shape[1])
            out = b.linear_attention(q, k, values, visible, causal=attrs["causal"], cumsum=cumsum, lin_norm=lin_norm)
        return unchunked(b, out, t)

    return _gated(b, x, p, attend, heads=2 * (use_local + use_global), **attrs)


def _flash_samples() -> tuple[Any, ...]:
    small: dict[str, Any] = {"key_dim": 4, "chunk": 3, "cumsum": "native"}
    return (
        sample("f32[2, 7, 4]", **small),
        sample("f32[2, 7, 4]", "i32[2, 7]", **small),
        sample("f32[2, 7, 4]", "i32[2, 7]", **{**small, "causal": False, "lin_norm": "none", "norm": "scale_norm"}),
        sample("f32[1, 6, 4]", **{**small, "cumsum": "scan", "lin_norm": "chunk", "qk_scale": "none"}),
        sample("f32[1, 5, 4]", **{**small, "cumsum": "matmul", "causal": False, "qk_scale": "sqrt_key"}),
        sample("f32[1, 5, 4]", **{**small, "use_global": False, "qk_scale": "max_len", "max_len": 16}),
        sample("f32[1, 5, 4]", "i32[1, 5]", **{**small, "use_local": False}),
        sample("f32[1, 2, 4]", **{**small, "chunk": 512, "expansion": 1}),
        sample("f32[1, 0, 4]", **small),
    )


flash = define_op(
    OpDef("flash", ("x", "segment_ids?"), _infer_flash, _ref_flash,
          lambda ins, outs, chunk, **attrs: _cost_gated(ins, outs, span=lambda t: chunk, **attrs), _flash_samples(),
          attrs={
              **GATED,
              "chunk": integer(AUTO, least=1, auto=True, doc="tokens that attend to each other quadratically"),
              "cumsum": CUMSUM, "lin_norm": LIN_NORM, "qk_scale": QK_SCALE,
              "use_local": flag(True, doc="quadratic attention within chunks"),
              "use_global": flag(True, doc="linear attention between chunks"),
              "max_len": integer(8192, least=1, doc="the divisor of qk_scale = max_len"),
          },
          decompose=_decompose_flash, params=_params_flash, scope="layers",
          doc="gated attention unit with mixed chunk attention (Code 8)")
)
