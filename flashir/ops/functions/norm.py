"""Normalisation over the last axis (Code 5), computed in float32 or wider and rounded once."""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import elementwise
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, define_op, flag, number, sample
from flashir.ir.traits import Axes
from flashir.ir.types import DType, TensorType

EPS = 1e-5
CLAMP = flag(False, doc="use eps as the least root mean square instead of adding it under the root")


def as_dtype(b: Builder, x: Value, dtype: DType) -> Value:
    """The value cast to an element type; the value itself if it has that type."""
    return x if x.type.dtype is dtype else b.cast(x, dtype=dtype)


def accumulation_dtype(dtype: DType) -> DType:
    """The type to accumulate in: float32 for the narrow types."""
    return DType.F32 if dtype in (DType.F16, DType.BF16) else dtype


def scaled(b: Builder, x: Value, factor: Value) -> Value:
    """x * factor, rounded once. A rounded factor would give all elements the same relative error, and so their sums."""
    return as_dtype(b, b.mul(as_dtype(b, x, factor.type.dtype), factor), x.type.dtype)


def _infer_norm(x: TensorType, *affine: TensorType, **_: Any) -> TensorType:
    if not x.dtype.is_float or not x.rank:
        raise IRError(f"the operand must be a float tensor with at least one axis, got {x}")
    for a in affine:
        if a.shape not in ((), (x.shape[-1],)) or a.dtype is not x.dtype:
            raise IRError(f"scale and bias must be {x.dtype}[] or {x.dtype}[{x.shape[-1]}], got {a}")
    return x


def ref_layer(x: Any, scale: Any, bias: Any, eps: float) -> Any:
    """`layer_normalization` in numpy."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * scale + bias


def _decompose_layer(b: Builder, x: Value, scale: Value, bias: Value, eps: float) -> Value:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) * scale + bias"""
    h = as_dtype(b, x, accumulation_dtype(x.type.dtype))
    centred = b.sub(h, b.reduce_mean(h, axes=(-1,), keepdims=True))
    variance = b.reduce_mean(b.mul(centred, centred), axes=(-1,), keepdims=True)
    normed = b.mul(centred, b.reciprocal(b.sqrt(b.add(variance, eps))))
    scale, bias = (as_dtype(b, operand, h.type.dtype) for operand in (scale, bias))
    return as_dtype(b, b.add(b.mul(normed, scale), bias), x.type.dtype)


layer_normalization = define_op(
    OpDef(
        "layer_normalization",
        ("x", "scale", "bias"),
        infer=_infer_norm,
        ref=ref_layer,
        cost=elementwise(8),
        samples=(sample("f32[2, 3, 8]", "f32[8]", "f32[8]"),),
        attrs={"eps": number(EPS, least=0)},
        decompose=_decompose_layer,
        axes=Axes.LAST,
        doc="zero mean, unit variance, then scale and bias",
    )
)


def ref_scale(x: Any, scale: Any, eps: float, clamp: bool = False) -> Any:
    """`scale_normalization` in numpy."""
    if clamp:
        return x / np.maximum(np.sqrt(np.mean(x * x, -1, keepdims=True)), eps) * scale
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps) * scale


def _decompose_scale(b: Builder, x: Value, scale: Value, eps: float, clamp: bool) -> Value:
    """x / sqrt(mean(x^2) + eps) * scale, where a scalar scale is multiplied into the one factor per row"""
    h = as_dtype(b, x, accumulation_dtype(x.type.dtype))
    square = b.reduce_mean(b.mul(h, h), axes=(-1,), keepdims=True)
    root = b.maximum(b.sqrt(square), eps) if clamp else b.sqrt(b.add(square, eps))
    inverse = b.reciprocal(root)
    scale = as_dtype(b, scale, h.type.dtype)
    scaled_x = b.mul(b.mul(h, inverse), scale) if scale.type.rank else b.mul(h, b.mul(inverse, scale))
    return as_dtype(b, scaled_x, x.type.dtype)


scale_normalization = define_op(
    OpDef(
        "scale_normalization",
        ("x", "scale"),
        infer=_infer_norm,
        ref=ref_scale,
        cost=elementwise(4),
        samples=(
            sample("f32[2, 3, 8]", "f32[]"),
            sample("f32[2, 8]", "f32[8]"),
            *(sample("f32[2, 3, 8]", "f32[]", clamp=True, eps=eps) for eps in (1e-5, 1.0)),
        ),
        attrs={"eps": number(EPS, least=0), "clamp": CLAMP},
        decompose=_decompose_scale,
        axes=Axes.LAST,
        doc="unit root mean square, then scale",
    )
)
