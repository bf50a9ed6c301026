"""Ops without operands: iota, size, param."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flashir.ir.dims import Size
from flashir.ir.types import DType, TensorType
from flashir.ops.costs import free, generated
from flashir.ops.opdef import (
    OpDef,
    ParamSpec,
    define_op,
    dtype,
    listing,
    number,
    parameter_name,
    sample,
    size,
)
from flashir.ops.traits import Axes, grows_as_size, no_gradient, reads_nothing

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Node, Value


def _fold_size(b: Builder, node: Node) -> Value | None:
    """A known size -> a constant"""
    value, dtype = node.attrs["value"], node.output.type.dtype
    return b.constant(float(value) if dtype.is_float else value, dtype) if isinstance(value, int) else None


def _infer_iota(length: Size, dtype: DType) -> TensorType:
    return TensorType(dtype, (length,))


iota = define_op(
    OpDef(
        "iota",
        (),
        _infer_iota,
        lambda length, dtype: np.arange(length, dtype=dtype.oracle),
        generated,
        (sample(length=5), sample(length=0), sample(length=3, dtype=DType.F64)),
        attrs={"length": size(), "dtype": dtype(DType.I32)},
        axes=Axes.SOURCE,
        gradient=reads_nothing,
        growth=grows_as_size("length"),
        doc="0, 1, .. length - 1",
    )
)

size_of = define_op(
    OpDef(
        "size",
        (),
        lambda value, dtype: TensorType(dtype, ()),
        lambda value, dtype: np.asarray(value, dtype.oracle),
        free,
        (sample(value=5), sample(value=7, dtype=DType.F32)),
        attrs={"value": size(), "dtype": dtype(DType.I32)},
        axes=Axes.SOURCE,
        gradient=no_gradient,
        growth=grows_as_size("value"),
        fold=_fold_size,
        inline=True,
        doc="a size as a number of shape []",
    )
)


def _infer_param(
    name: str, shape: tuple[int, ...], dtype: DType, mean: float, std: float, scope: str | None
) -> TensorType:
    return TensorType(dtype, shape)


def _own(name: str, shape: tuple[int, ...], mean: float, std: float, **_: Any) -> dict[str, ParamSpec]:
    return {name: ParamSpec(shape, mean, std)}


param = define_op(
    OpDef(
        "param",
        (),
        _infer_param,
        lambda p, name, **_: p[name],
        free,
        (sample(name="weight", shape=(2, 3)),),
        attrs={
            "name": parameter_name(),
            "shape": listing(),
            "dtype": dtype(DType.F32),
            "mean": number(0.0),
            "std": number(0.0),
        },
        params=_own,
        axes=Axes.SOURCE,
        gradient=reads_nothing,
        doc="a trainable parameter",
    )
)
