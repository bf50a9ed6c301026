"""The gated blocks: gau with quadratic attention (Code 6), flash with mixed chunk attention (Code 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.dims import Size
from flashir.ir.types import LARGEST_SIZE, TensorType
from flashir.ops.blocks import WEIGHT_STD, Params, apply_norm, check_tokens, norm_params, ref_norm, width_of
from flashir.ops.costs import Contraction, Cost, Types, elementwise, moved
from flashir.ops.opdef import AttrSpec, OpDef, ParamSpec, choice, define_op, flag, integer, number, sample, size
from flashir.ops.position import ref_bias, ref_rope, ref_rope_bias

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Value

QK_SCALE = choice(
    "length",
    "none",
    "max_len",
    "sqrt_key",
    default="length",
    doc="scores divided by: the length, or the chunk in flash (Code 6, 8); nothing (Eq. 5); max_len; sqrt(s)",
)

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
    OpDef(
        "offset_scale",
        ("z", "gamma", "beta"),
        _infer_offset_scale,
        lambda z, gamma, beta: np.einsum("bts,hs->bhts", z, gamma) + beta[None, :, None, :],
        elementwise(2),
        (sample("f32[2, 3, 4]", "f32[5, 4]", "f32[5, 4]"),),
        decompose=_decompose_offset_scale,
        doc="cheap heads of one z: each scaled and shifted by vectors of its own, [b, t, s] -> [b, h, t, s] (Code 1)",
    )
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
    if not 1 <= width <= LARGEST_SIZE or width != int(width):
        raise IRError(f"expansion {expansion} of width {width_of(x)} gives {width}, which is no whole width")
    return int(width)


def bias_params(span: int) -> dict[str, ParamSpec]:
    """The relative bias over `span` positions (Code 4): short spans have a weight a distance."""
    if span < SHORT_SPAN:
        return {"rel_bias.w": ParamSpec((2 * span - 1,), std=WEIGHT_STD)}
    return {f"rel_bias.{name}": ParamSpec((BIAS_WIDTH,), std=WEIGHT_STD) for name in "ab"}


def gated_params(
    x: TensorType, expansion: float, key_dim: int, norm: str, cheap: int, span: int | None, gating: bool = True
) -> dict[str, ParamSpec]:
    """The parameters of a gated block with that many cheap heads, and a bias where there is a span."""
    d, e = width_of(x), expanded(x, expansion)
    inside = 2 * e + key_dim
    return {
        **norm_params(norm, d, "norm."),
        "proj_in.weight": ParamSpec((d, inside), std=WEIGHT_STD),
        "proj_in.bias": ParamSpec((inside,)),
        "offset_scale.gamma": ParamSpec((cheap, key_dim), std=WEIGHT_STD),
        "offset_scale.beta": ParamSpec((cheap, key_dim)),
        **({} if span is None else bias_params(span)),
        "proj_out.weight": ParamSpec((e if gating else 2 * e, d), std=WEIGHT_STD),
        "proj_out.bias": ParamSpec((d,)),
    }


def bias_of(b: Builder, p: Params, n: Size, span: int) -> Value:
    """[n, n], the bias of n positions from parameters that span `span` (Code 4)."""
    if span < SHORT_SPAN:
        return b.rel_pos_bias(p["rel_bias.w"], n=n)
    return b.rope_rel_pos_bias(p["rel_bias.a"], p["rel_bias.b"], n=n)


def ref_bias_of(p: Params, n: int, span: int) -> Any:
    """As `bias_of`, in numpy."""
    return ref_bias(p["rel_bias.w"], n) if span < SHORT_SPAN else ref_rope_bias(p["rel_bias.a"], p["rel_bias.b"], n)


Attend = Callable[..., Any]


def gated(
    b: Builder,
    x: Value,
    p: Params,
    attend: Attend,
    *,
    expansion: float,
    key_dim: int,
    norm: str,
    causal: bool,
    valid: Size | None,
    cheap: int,
    heads: int = 1,
    gating: bool = True,
) -> Value:
    """x + (u * attend(q.., v)) W_out, with [u, v, z] = silu(norm(x) W_in) and cheap heads q.. of z (Code 8).

    Args:
        b, x, p: the builder, the tokens [b, t, d], the parameters of the block.
        attend: the cheap heads [b, t, s], in a list, and v [b, t, e] -> [b, t, e].
        expansion, key_dim, norm, causal, valid: the attributes of the block.
        cheap: how many cheap heads.
        heads: how many parts each is cut in; positions turn each part by itself.
        gating: where not, u stands beside what is attended to instead of multiplying it.
    """
    e, t = expanded(x.type, expansion), x.type.shape[1]
    h = b.dense(apply_norm(b, x, p, norm, "norm."), p["proj_in.weight"], p["proj_in.bias"])
    u, v, z = b.results("split", b.silu(h), axis=-1, sizes=(e, e, key_dim))
    if valid is not None and not causal:  # rows that pad come after all tokens, so a causal token never sees them
        token = b.reshape(b.less(b.iota(length=t), b.size(value=valid)), shape=(t, 1))
        v = b.select(token, v, 0.0)
    queries = b.offset_scale(z, p["offset_scale.gamma"], p["offset_scale.beta"])
    cut = (*queries.type.shape[:-1], heads, key_dim // heads)
    turned = b.rope(queries if heads == 1 else b.reshape(queries, shape=cut), axis=2)
    apart = b.results("split", turned, axis=1, sizes=(1,) * cheap)
    attended = attend([b.reshape(q, shape=z.type.shape) for q in apart], v)
    joined = b.mul(u, attended) if gating else b.concat(u, attended, axis=-1)
    return b.add(b.dense(joined, p["proj_out.weight"], p["proj_out.bias"]), x)


def ref_gated(
    x: Any,
    p: Params,
    attend: Attend,
    *,
    expansion: float,
    key_dim: int,
    norm: str,
    valid: int | None,
    heads: int = 1,
    gating: bool = True,
    **_: Any,
) -> Any:
    """As `gated`, in numpy."""
    tokens = x if valid is None else x[:, :valid]
    e = int(x.shape[-1] * expansion)
    h = ref_norm(tokens, p, norm, "norm.") @ p["proj_in.weight"] + p["proj_in.bias"]
    u, v, z = np.split(h / (1 + np.exp(-h)), [e, 2 * e], axis=-1)
    base = z[:, :, None, :] * p["offset_scale.gamma"] + p["offset_scale.beta"]
    turned = np.concatenate([ref_rope(part, 1) for part in np.split(base, heads, axis=-1)], axis=-1)
    attended = attend([turned[:, :, i] for i in range(turned.shape[2])], v)
    joined = u * attended if gating else np.concatenate([u, attended], -1)
    out = np.zeros_like(x)
    out[:, : tokens.shape[1]] = joined @ p["proj_out.weight"] + p["proj_out.bias"] + tokens
    return out


def infer_gated(x: TensorType, expansion: float, key_dim: int, heads: int = 1, **_: Any) -> TensorType:
    """The type of x. Raises IRError where the widths do not fit."""
    check_tokens(x)
    e = expanded(x, expansion)
    if heads > 1 and (key_dim % heads or e % heads):
        raise IRError(f"heads must divide key_dim and the expanded width, got {heads} for {key_dim} and {e}")
    if key_dim // heads % 2:
        each = f"key_dim / heads = {key_dim // heads}" if heads > 1 else str(key_dim)
        raise IRError(f"key_dim must be even, for rope turns pairs, got {each}")
    return x


def cost_gated(
    ins: Types,
    outs: Types,
    *,
    expansion: float,
    key_dim: int,
    chunk: int | None = None,
    linear: bool = False,
    heads: int = 1,
    gating: bool = True,
    **_: Any,
) -> Cost:
    """The two projections, quadratic attention within each chunk (None for none), linear attention where it is."""
    x = ins[0]
    assert x is not None
    batch, t, d = x.sizes
    e, traffic = int(d * expansion), moved(ins, outs)
    products = [Contraction(1, batch * t, d, 2 * e + key_dim), Contraction(1, batch * t, e if gating else 2 * e, d)]
    if chunk:
        chunks = batch * -(-t // chunk) * heads
        products += [
            Contraction(chunks, chunk, key_dim // heads, chunk),
            Contraction(chunks, chunk, chunk, e // heads),
        ]
    if linear:
        products += [Contraction(batch, key_dim, t, e), Contraction(batch, t, key_dim, e)]
    return Cost(30.0 * batch * t * e, traffic.read, traffic.written, contractions=tuple(products))
