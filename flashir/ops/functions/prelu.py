"""prelu: a rectifier with a learned slope below 0 (He et al. 2015)."""

from __future__ import annotations

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import elementwise
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, define_op, sample
from flashir.ir.traits import Axes
from flashir.ir.types import TensorType
from flashir.ops.primitive.elementwise import floating


def _infer(x: TensorType, slope: TensorType) -> TensorType:
    if slope.dtype is not x.dtype or slope.shape not in ((), x.shape[-1:]):
        raise IRError(f"the slope must be {x.dtype}[], or one for each channel of {x}, got {slope}")
    return floating(x)


def _decompose(b: Builder, x: Value, slope: Value) -> Value:
    """max(x, 0) + slope * min(x, 0)"""
    return b.add(b.relu(x), b.mul(b.minimum(x, 0.0), slope))


prelu = define_op(
    OpDef(
        "prelu",
        ("x", "slope"),
        infer=_infer,
        ref=lambda x, slope: np.where(x > 0, x, slope * x),
        cost=elementwise(3),
        samples=(sample("f32[2, 3, 4]", "f32[4]"), sample("f32[2, 3]", "f32[]")),
        decompose=_decompose,
        axes=Axes.ELEMENTWISE,
        doc="x above 0, slope * x below; one slope, or one for each channel",
    )
)
