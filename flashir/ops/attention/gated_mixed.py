"""gated_mixed_attention: what a flash layer computes between its two products, as one op for fused kernels.

The bias of the first projection is an operand, `shift`, so that its gradient is summed where that of the product is
made.

`fuse-gated-attention` of a backend makes it from a lowered layer, so every other backend keeps the parts.

Axes: b batch, t length, e expanded, s key, h heads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import Cost, Types, moved
from flashir.ir.dims import Dim
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, Sample, define_op, flag, integer, number, sample
from flashir.ir.types import TensorType
from flashir.ops.attention.chunk_choices import CUMSUM
from flashir.ops.attention.linear import LIN_NORM
from flashir.ops.attention.quadratic import check_bias
from flashir.ops.attention.recurrence import chunked_recurrence
from flashir.ops.attention.recurrence_reference import ref_recurrence
from flashir.ops.functions.norm import accumulation_dtype, as_dtype
from flashir.ops.primitive.elementwise import TRANSCENDENTAL, floating

HEADS = 4


def _infer(
    pre: TensorType,
    shift: TensorType,
    gamma: TensorType,
    beta: TensorType,
    bias: TensorType,
    sin: TensorType,
    cos: TensorType,
    *,
    chunk: int,
    **_: Any,
) -> TensorType:
    floating(pre)
    s, inside = gamma.shape[-1], pre.shape[-1]
    if gamma.shape[:-1] != (HEADS,) or gamma != beta or isinstance(s, Dim) or s % 2 or s < 2:
        raise IRError(f"gamma and beta must be [4, s], s even, got {gamma} and {beta}")
    if pre.rank != 3 or isinstance(inside, Dim) or inside <= s or (inside - s) % 2:
        raise IRError(f"pre must be [b, t, 2 * e + s] with s = {s}, got {pre}")
    if shift != pre.with_shape((inside,)):
        raise IRError(f"shift must be {pre.with_shape((inside,))}, got {shift}")
    angles = TensorType(accumulation_dtype(pre.dtype), (pre.shape[1], s // 2))
    if sin != angles or cos != angles:
        raise IRError(f"sin and cos must be {angles}, got {sin} and {cos}")
    check_bias(bias, pre, chunk, chunk)
    return pre.with_shape((*pre.shape[:2], (inside - s) // 2))


def _ref(
    pre: Any,
    shift: Any,
    gamma: Any,
    beta: Any,
    bias: Any,
    sin: Any,
    cos: Any,
    *,
    chunk: int,
    scale: float,
    **attrs: Any,
) -> Any:
    s = gamma.shape[1]
    e = (pre.shape[2] - s) // 2
    shifted = pre + shift
    u, v, z = np.split(shifted / (1 + np.exp(-shifted)), [e, 2 * e], axis=-1)
    first, second = np.split(z[:, None] * gamma[:, None] + beta[:, None], 2, axis=-1)
    pairs = (first + 1j * second) * (cos + 1j * sin)
    quad_q, quad_k, lin_q, lin_k = np.moveaxis(np.concatenate([pairs.real, pairs.imag], axis=-1), 1, 0)
    return u * ref_recurrence(v, quad_q * scale, quad_k, bias, lin_q, lin_k, chunk=chunk, **attrs)


def _cost(ins: Types, outs: Types, **attrs: Any) -> Cost:
    pre, _shift, gamma, _beta, bias, *_ = ins
    (out,) = outs
    assert pre is not None and gamma is not None and bias is not None and out is not None
    key = pre.with_shape((*pre.shape[:2], gamma.shape[1]))
    settings = {name: attrs[name] for name in ("chunk", "causal", "cumsum")}
    within = {"tile": 1, "overlap": False, "kernel": "relu2"}
    assert chunked_recurrence.cost is not None
    attention = chunked_recurrence.cost((out, key, key, bias, key, key), (out,), **settings, **within)
    flops = (TRANSCENDENTAL + 2) * pre.count + 5 * HEADS * key.count + out.count
    traffic = moved(ins, outs)
    return replace(attention, flops=attention.flops + flops, read=traffic.read, written=traffic.written)


def _decompose(
    b: Builder,
    pre: Value,
    shift: Value,
    gamma: Value,
    beta: Value,
    bias: Value,
    sin: Value,
    cos: Value,
    *,
    chunk: int,
    causal: bool,
    cumsum: str,
    lin_norm: str,
    scale: float,
) -> Value:
    """The nodes that a flash layer is lowered to behind its projection."""
    s, inside = gamma.type.shape[1], pre.type.shape[2]
    assert isinstance(s, int) and isinstance(inside, int)
    e = (inside - s) // 2
    u, v, z = (b.silu(part) for part in b.results("split", b.add(pre, shift), axis=-1, sizes=(e, e, s)))
    heads = as_dtype(b, b.offset_scale(z, gamma, beta), sin.type.dtype)
    turned = as_dtype(b, b.turn(heads, sin, cos), pre.type.dtype)
    apart = b.results("split", turned, axis=1, sizes=(1,) * HEADS)
    quad_q, quad_k, lin_q, lin_k = (b.reshape(head, shape=z.type.shape) for head in apart)
    settings: dict[str, Any] = {"chunk": chunk, "causal": causal, "cumsum": cumsum, "lin_norm": lin_norm}
    return b.mul(u, b.chunked_recurrence(v, b.mul(quad_q, scale), quad_k, bias, lin_q, lin_k, **settings))


def _samples() -> tuple[Sample, ...]:
    def of(t: int, **attrs: Any) -> Sample:
        operands = (
            f"f32[2, {t}, 16]",
            "f32[16]",
            "f32[4, 4]",
            "f32[4, 4]",
            "f32[3, 3]",
            f"f32[{t}, 2]",
            f"f32[{t}, 2]",
        )
        return sample(*operands, chunk=3, scale=0.5, **attrs)

    return (
        of(7, causal=True, cumsum="scan", lin_norm="chunk_mean"),
        of(6, causal=True, cumsum="matmul", lin_norm="chunk"),
        of(7, causal=False, cumsum="native", lin_norm="none"),
        of(0, causal=True, cumsum="matmul", lin_norm="chunk_mean"),
    )


gated_mixed_attention = define_op(
    OpDef(
        "gated_mixed_attention",
        ("pre", "shift", "gamma", "beta", "bias", "sin", "cos"),
        infer=_infer,
        ref=_ref,
        cost=_cost,
        samples=_samples(),
        attrs={
            "chunk": integer(least=1, doc="tokens that attend to each other quadratically"),
            "causal": flag(True),
            "cumsum": CUMSUM,
            "lin_norm": LIN_NORM,
            "scale": number(1.0, doc="the factor of quad_q"),
        },
        decompose=_decompose,
        doc="silu(u) times mixed chunk attention of silu(v), with heads of silu(z); [u, v, z] = pre + shift",
        source="Code 8",
    )
)
