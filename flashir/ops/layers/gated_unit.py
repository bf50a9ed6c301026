"""The gated blocks: gau with quadratic attention (Code 6), flash with mixed chunk attention (Code 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import elementwise
from flashir.ir.dims import Size
from flashir.ir.graph import Value
from flashir.ir.limits import LARGEST_SIZE
from flashir.ir.op import AttrSpec, OpDef, ParamSpec, choice, define_op, flag, integer, number, sample, size
from flashir.ir.types import DType, TensorType
from flashir.ops.attention.documents import document_lengths
from flashir.ops.decode.context import column
from flashir.ops.functions.norm import CLAMP, EPS
from flashir.ops.functions.position import ref_rope
from flashir.ops.layers.blocks import (
    WEIGHT_STD,
    Params,
    check_tokens,
    matrix,
    norm_params,
    width_of,
)
from flashir.ops.layers.relative_bias import REL_BIAS, bias_params
from flashir.ops.layers.token_shift import TOKEN_SHIFT, norm_and_shift, ref_norm_and_shift

QK_SCALES = ("length", "none", "max_len", "sqrt_key")
QK_SCALE = choice(
    *QK_SCALES,
    default="length",
    doc="scores divided by: the length, or the chunk in flash (Code 6, 8); nothing (Eq. 5); max_len; sqrt(s)",
)

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
    OpDef(
        "offset_scale",
        ("z", "gamma", "beta"),
        infer=_infer_offset_scale,
        ref=lambda z, gamma, beta: np.einsum("bts,hs->bhts", z, gamma) + beta[None, :, None, :],
        cost=elementwise(2),
        samples=(sample("f32[2, 3, 4]", "f32[5, 4]", "f32[5, 4]"),),
        decompose=_decompose_offset_scale,
        doc="cheap heads of z, each with its own scale and offset, [b, t, s] -> [b, h, t, s]",
        source="Code 1",
    )
)


GATED: dict[str, AttrSpec] = {
    "expansion": number(2, least=0, doc="e = expansion * d"),
    "key_dim": integer(128, least=1, doc="s, the width of queries and keys; even, because of rope"),
    "causal": flag(True, doc="a token does not see later tokens"),
    "norm": choice("layer_norm", "scale_norm", "none", default="layer_norm", doc="norm of the tokens at the input"),
    "rel_bias": REL_BIAS,
    "rope_dims": integer(None, least=0, doc="rotate the first `rope_dims` elements of q and k; all if none"),
    "rope_interleaved": flag(False, doc="rotate neighbours, (0, 1), (2, 3), .., instead of one element of each half"),
    "token_shift": TOKEN_SHIFT,
    "valid": size(None, doc="number of rows that are tokens; the rest is padding"),
    "expanded": integer(None, least=1, doc="e itself; overrides the expansion"),
    "norm_eps": number(EPS, least=0, doc="eps of the norm"),
    "norm_clamp": CLAMP,
    "residual": flag(True, doc="add the input to the output"),
}


def expanded_width(x: TensorType, expansion: float, expanded: int | None = None, **_: Any) -> int:
    """e, the expanded width. Raises IRError if it is not a whole number."""
    if expanded is not None:
        return expanded
    width = width_of(x) * expansion
    if not 1 <= width <= LARGEST_SIZE or width != int(width):
        raise IRError(f"expansion {expansion} of width {width_of(x)} gives {width}, which is not a whole number")
    return int(width)


def gated_params(
    x: TensorType,
    cheap: int,
    span: int | None,
    *,
    key_dim: int,
    norm: str,
    rel_bias: str,
    gating: bool = True,
    **attrs: Any,
) -> dict[str, ParamSpec]:
    """The parameters of a gated block with `cheap` heads, and with a relative bias if `span` is not None."""
    d, e = width_of(x), expanded_width(x, **attrs)
    inside = 2 * e + key_dim
    return {
        **norm_params(norm, d, "norm."),
        "proj_in.weight": matrix(d, inside),
        "proj_in.bias": ParamSpec((inside,)),
        "offset_scale.gamma": ParamSpec((cheap, key_dim), std=WEIGHT_STD),
        "offset_scale.beta": ParamSpec((cheap, key_dim)),
        **({} if span is None else bias_params(rel_bias, span)),
        "proj_out.weight": matrix(e if gating else 2 * e, d),
        "proj_out.bias": ParamSpec((d,)),
    }


def token_count(b: Builder, documents: Value | None, n: Size, valid: Size | None, dtype: DType) -> Value:
    """The number of tokens [], or of those in the document of each token [b, t, 1] or [b, 1, 1]; at least 1."""
    if documents is None:
        return b.maximum(b.size(value=n if valid is None else valid, dtype=dtype), 1.0)
    return column(b, document_lengths(b, documents, n, dtype))


Attend = Callable[..., Any]


def gated(
    b: Builder,
    x: Value,
    p: Params,
    attend: Attend,
    documents: Value | None = None,
    *,
    expansion: float,
    expanded: int | None,
    key_dim: int,
    norm: str,
    norm_eps: float,
    norm_clamp: bool,
    causal: bool,
    valid: Size | None,
    cheap: int,
    heads: int = 1,
    gating: bool = True,
    token_shift: bool = False,
    rope_dims: int | None = None,
    rope_interleaved: bool = False,
    rel_bias: str = "paper",
    residual: bool = True,
) -> Value:
    """x + (u * attend(q.., v)) W_out, with [u, v, z] = silu(norm(x) W_in) and cheap heads q.. of z (Code 8).

    Args:
        b, x, p: the builder, the tokens [b, t, d], the parameters of the block.
        attend: maps the list of cheap heads [b, t, s] and v [b, t, e] to [b, t, e].
        documents: which tokens see each other; see `flashir.ops.attention.documents`.
        expansion, expanded, key_dim, norm, norm_eps, norm_clamp, causal, valid, token_shift, rope_dims,
            rope_interleaved, rel_bias, residual: as in `GATED`.
        cheap: the number of cheap heads.
        heads: the number of parts that each cheap head is split into; RoPE applies to each part.
        gating: multiply the result of attention by u; if false, concatenate them.
    """
    e, t = expanded_width(x.type, expansion, expanded), x.type.shape[1]
    normed = norm_and_shift(b, x, p, documents, norm=norm, token_shift=token_shift, eps=norm_eps, clamp=norm_clamp)
    h = b.dense(normed, p["proj_in.weight"], p["proj_in.bias"])
    u, v, z = b.results("split", b.silu(h), axis=-1, sizes=(e, e, key_dim))
    if valid is not None and not causal:  # padding comes after all tokens, so a causal token never sees it
        token = b.reshape(b.less(b.iota(length=t), b.size(value=valid)), shape=(t, 1))
        v = b.select(token, v, 0.0)
    queries = b.offset_scale(z, p["offset_scale.gamma"], p["offset_scale.beta"])
    cut = (*queries.type.shape[:-1], heads, key_dim // heads)
    queries = queries if heads == 1 else b.reshape(queries, shape=cut)
    turned = queries if rope_dims == 0 else b.rope(queries, axis=2, dims=rope_dims, interleaved=rope_interleaved)
    apart = b.results("split", turned, axis=1, sizes=(1,) * cheap)
    attended = attend([b.reshape(q, shape=z.type.shape) for q in apart], v)
    joined = b.mul(u, attended) if gating else b.concat(u, attended, axis=-1)
    out = b.dense(joined, p["proj_out.weight"], p["proj_out.bias"])
    return b.add(out, x) if residual else out


def ref_gated(
    x: Any,
    p: Params,
    attend: Attend,
    documents: Any = None,
    *,
    expansion: float,
    expanded: int | None,
    norm: str,
    norm_eps: float,
    norm_clamp: bool,
    valid: int | None,
    heads: int = 1,
    gating: bool = True,
    token_shift: bool,
    rope_dims: int | None,
    rope_interleaved: bool,
    residual: bool,
    **_: Any,
) -> Any:
    """`gated` in numpy."""
    tokens = x if valid is None else x[:, :valid]
    e = int(x.shape[-1] * expansion) if expanded is None else expanded
    how: dict[str, Any] = {"norm": norm, "token_shift": token_shift, "eps": norm_eps, "clamp": norm_clamp}
    normed = ref_norm_and_shift(tokens, p, documents, **how)
    h = normed @ p["proj_in.weight"] + p["proj_in.bias"]
    u, v, z = np.split(h / (1 + np.exp(-h)), [e, 2 * e], axis=-1)
    base = z[:, :, None, :] * p["offset_scale.gamma"] + p["offset_scale.beta"]
    turned = base
    if rope_dims != 0:
        parts = np.split(base, heads, axis=-1)
        turned = np.concatenate([ref_rope(part, 1, rope_dims, rope_interleaved) for part in parts], axis=-1)
    attended = attend([turned[:, :, i] for i in range(turned.shape[2])], v)
    joined = u * attended if gating else np.concatenate([u, attended], -1)
    out = np.zeros_like(x)
    out[:, : tokens.shape[1]] = joined @ p["proj_out.weight"] + p["proj_out.bias"] + (tokens if residual else 0)
    return out


def infer_gated(
    x: TensorType, key_dim: int, heads: int = 1, rope_dims: int | None = None, norm: str = "", **attrs: Any
) -> TensorType:
    """The type of x. Raises IRError if the widths do not fit."""
    check_tokens(x)
    e = expanded_width(x, **attrs)
    if attrs["norm_clamp"] and norm != "scale_norm":
        raise IRError(f"norm_clamp needs scale_norm, the norm is {norm}")
    if heads > 1 and (key_dim % heads or e % heads):
        raise IRError(f"heads must divide key_dim and the expanded width, got {heads} for {key_dim} and {e}")
    if key_dim // heads % 2 and rope_dims is None:
        width = f"key_dim / heads = {key_dim // heads}" if heads > 1 else str(key_dim)
        raise IRError(f"key_dim must be even, because rope rotates pairs, got {width}")
    if rope_dims is not None and (rope_dims % 2 or rope_dims > key_dim // heads):
        raise IRError(f"rope_dims must be even, and at most the width of a head, {key_dim // heads}, got {rope_dims}")
    return x
