"""Convolution over tokens, [b, t, c] -> [b, t', o], and transposed convolution, which lengthens sequences.

Axes: b batch, t length, k the taps of a kernel, c channels in, o channels out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.cost import Contraction, Cost, Types, moved
from flashir.ir.dims import Dim, Size, ceildiv
from flashir.ir.op import OpDef, define_op, integer, listing, sample
from flashir.ir.traits import Axes, grows_as_product, reads_other_side
from flashir.ir.types import TensorType

PADS = listing((0, 0), doc="zeros before the first token and after the last")
NARROW = 8
"""Groups with fewer channels do not use matrix units."""


def _check(x: TensorType, weight: TensorType, pads: tuple[int, ...]) -> None:
    """Raise IRError unless x is float [b, t, c], weight [k, *, *] has a tap, and pads are two numbers from 0."""
    known = not any(isinstance(size, Dim) for size in (*weight.shape, *x.shape[2:]))
    if x.rank != 3 or weight.rank != 3 or not known or not x.dtype.is_float or x.dtype is not weight.dtype:
        raise IRError(f"x must be float [b, t, c] and weight [k, c, o] of its type, both known, got {x} and {weight}")
    if not weight.shape[0]:
        raise IRError(f"a kernel needs at least one tap, got {weight}")
    if len(pads) != 2 or min(pads) < 0:
        raise IRError(f"pads must be two numbers from 0, before and after, got {pads}")


def _length(x: TensorType, length: Size) -> Size:
    if isinstance(length, int) and length < 0:
        raise IRError(f"{x} is shorter than the kernel")
    return length


def _infer_conv(
    x: TensorType, weight: TensorType, groups: int, dilation: int, stride: int, pads: tuple[int, ...]
) -> TensorType:
    _check(x, weight, pads)
    (batch, t, c), (k, inner, out) = x.shape, weight.shape
    assert isinstance(k, int) and isinstance(inner, int) and isinstance(out, int)
    if inner * groups != c or out % groups:
        raise IRError(
            f"weight must be [k, c / groups, o], groups must divide o, got {weight} for {x}, groups = {groups}"
        )
    return x.with_shape((batch, _length(x, ceildiv(t + (sum(pads) - dilation * (k - 1)), stride)), out))


def _ref_conv(x: Any, weight: Any, groups: int, dilation: int, stride: int, pads: tuple[int, int]) -> Any:
    k, inner, out = weight.shape
    padded = np.pad(x, ((0, 0), pads, (0, 0)))
    count = max(-(-(padded.shape[1] - dilation * (k - 1)) // stride), 0)
    parts = padded.reshape(*padded.shape[:2], groups, inner)
    kernels = weight.reshape(k, inner, groups, out // groups)
    result = np.zeros((len(x), count, groups, out // groups))
    for tap in range(k):
        seen = parts[:, tap * dilation :: stride][:, :count]
        result += np.einsum("btgc,cgo->btgo", seen, kernels[tap])
    return result.reshape(len(x), count, out)


def _cost_conv(ins: Types, outs: Types, groups: int, **attrs: Any) -> Cost:
    weight, out = ins[1], outs[0]
    assert weight is not None and out is not None
    (k, inner, wide), (batch, t, _) = weight.sizes, out.sizes
    if inner < NARROW:
        return replace(moved(ins, outs), flops=2.0 * batch * t * wide * k * inner)
    return replace(moved(ins, outs), contractions=(Contraction(groups, batch * t, k * inner, wide // groups),))


conv1d = define_op(
    OpDef(
        "conv1d",
        ("x", "weight"),
        infer=_infer_conv,
        ref=_ref_conv,
        cost=_cost_conv,
        samples=(
            sample("f32[2, 7, 4]", "f32[3, 4, 6]"),
            sample("f32[2, 7, 4]", "f32[3, 1, 4]", groups=4, pads=(1, 1)),
            sample("f32[2, 9, 4]", "f32[3, 2, 6]", groups=2, dilation=2, pads=(4, 0)),
            sample("f32[1, 10, 3]", "f32[4, 3, 2]", stride=2, pads=(0, 1)),
            sample("f32[1, 2, 3]", "f32[3, 3, 2]"),
            sample("f32[1, 0, 3]", "f32[3, 1, 3]", groups=3, pads=(1, 1)),
        ),
        attrs={
            "groups": integer(1, least=1, doc="groups of channels that do not mix"),
            "dilation": integer(1, least=1, doc="tokens from one tap to the next"),
            "stride": integer(1, least=1, doc="tokens from one result to the next"),
            "pads": PADS,
        },
        axes=Axes.MIXED,
        gradient=reads_other_side,
        growth=grows_as_product,
        doc="convolution over tokens: [b, t, c], weight [k, c / groups, o] -> [b, t', o], tap 0 the earliest token",
    )
)


def _infer_transpose(x: TensorType, weight: TensorType, stride: int, pads: tuple[int, ...]) -> TensorType:
    _check(x, weight, pads)
    (batch, t, c), (k, inner, out) = x.shape, weight.shape
    if inner != c:
        raise IRError(f"weight must be [k, c, o], got {weight} for {x}")
    return x.with_shape((batch, _length(x, (t - 1) * stride + (k - sum(pads))), out))


def _ref_transpose(x: Any, weight: Any, stride: int, pads: tuple[int, int]) -> Any:
    (batch, t, _), (k, _, out) = x.shape, weight.shape
    whole = np.zeros((batch, max((t - 1) * stride + k, 0), out))
    for tap in range(k):
        whole[:, tap : tap + t * stride : stride][:, :t] += x @ weight[tap]
    return whole[:, pads[0] : whole.shape[1] - pads[1]]


def _cost_transpose(ins: Types, outs: Types, **attrs: Any) -> Cost:
    x, weight = ins[0], ins[1]
    assert x is not None and weight is not None
    (k, inner, out), (batch, t, _) = weight.sizes, x.sizes
    return replace(moved(ins, outs), contractions=(Contraction(1, batch * t, inner, k * out),))


conv_transpose1d = define_op(
    OpDef(
        "conv_transpose1d",
        ("x", "weight"),
        infer=_infer_transpose,
        ref=_ref_transpose,
        cost=_cost_transpose,
        samples=(
            sample("f32[2, 5, 4]", "f32[6, 4, 3]", stride=3),
            sample("f32[1, 5, 4]", "f32[4, 4, 1]", stride=2, pads=(1, 1)),
            sample("f32[1, 1, 2]", "f32[3, 2, 2]"),
        ),
        attrs={"stride": integer(1, least=1, doc="tokens from one result to the next"), "pads": PADS},
        axes=Axes.MIXED,
        gradient=reads_other_side,
        growth=grows_as_product,
        doc="[b, t, c], weight [k, c, o] -> [b, (t - 1) stride + k - pads, o]: each token adds k rows",
    )
)
