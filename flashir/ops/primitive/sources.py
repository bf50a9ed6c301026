"""Ops without operands: iota, size, literal, param."""

from __future__ import annotations

from itertools import groupby
from math import isfinite, prod
from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import free, generated
from flashir.ir.dims import Size
from flashir.ir.graph import Node, Value
from flashir.ir.op import (
    AttrSpec,
    OpDef,
    ParamSpec,
    define_op,
    dtype,
    integer,
    listing,
    number,
    parameter_name,
    sample,
    size,
)
from flashir.ir.traits import Axes, grows_as_size, no_gradient, reads_nothing
from flashir.ir.types import DType, TensorType, shape_text

MOST_LITERAL = 1024
"""The most numbers of a literal; a larger array is a parameter."""


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
        infer=_infer_iota,
        ref=lambda length, dtype: np.arange(length, dtype=dtype.reference_dtype),
        cost=generated,
        samples=(sample(length=5), sample(length=0), sample(length=3, dtype=DType.F64)),
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
        infer=lambda value, dtype: TensorType(dtype, ()),
        ref=lambda value, dtype: np.asarray(value, dtype.reference_dtype),
        cost=free,
        samples=(sample(value=5), sample(value=7, dtype=DType.F32)),
        attrs={"value": size(), "dtype": dtype(DType.I32)},
        axes=Axes.SOURCE,
        gradient=no_gradient,
        growth=grows_as_size("value"),
        fold=_fold_size,
        inline=True,
        doc="a size as a number of shape []",
    )
)


def _infer_literal(values: tuple[float, ...], shape: tuple[int, ...], dtype: DType) -> TensorType:
    if not dtype.is_float:
        raise IRError(f"a literal holds floating-point numbers, got the element type {dtype}")
    if not 1 <= len(values) <= MOST_LITERAL or prod(shape) != len(values):
        raise IRError(
            f"shape {shape_text(shape)} has {prod(shape)} elements, got {len(values)} values, of 1 to {MOST_LITERAL}"
        )
    if not all(map(isfinite, values)):
        raise IRError("the values of a literal must be finite")
    return TensorType(dtype, shape)


def _decompose_literal(b: Builder, values: tuple[float, ...], shape: tuple[int, ...], dtype: DType) -> Value:
    """Concatenate runs of equal numbers."""
    runs = [(value, len(list(run))) for value, run in groupby(values)]
    parts = [b.broadcast(b.constant(float(value), dtype), shape=(count,)) for value, count in runs]
    return b.reshape(b.concat(*parts, axis=0), shape=shape)


literal = define_op(
    OpDef(
        "literal",
        (),
        infer=_infer_literal,
        ref=lambda values, shape, dtype: np.array(values, dtype.reference_dtype).reshape(shape),
        cost=generated,
        samples=(
            sample(values=(1.5, -2.0, 0.25), shape=(3,)),
            sample(values=(1, 1, 2, 2, 2, 1), shape=(2, 3)),
            sample(values=(0.1,), shape=(), dtype=DType.F64),
        ),
        attrs={
            "values": AttrSpec((tuple,), items=(float, int), doc="in row-major order"),
            "shape": listing(),
            "dtype": dtype(DType.F32),
        },
        decompose=_decompose_literal,
        axes=Axes.SOURCE,
        growth=lambda node, growth, power: 0.0,
        doc="a small array with its numbers in the text",
    )
)


def _infer_param(
    name: str,
    shape: tuple[int, ...],
    dtype: DType,
    mean: float,
    std: float,
    fan_in: int,
    raised: float,
    scope: str | None,
) -> TensorType:
    if not isfinite(mean + std + raised):
        raise IRError(f"param: mean, std and raised must be finite, got {mean}, {std} and {raised}")
    return TensorType(dtype, shape)


def _own(
    name: str, shape: tuple[int, ...], mean: float, std: float, fan_in: int, raised: float, **_: Any
) -> dict[str, ParamSpec]:
    return {name: ParamSpec(shape, mean, std, fan_in, raised=raised)}


param = define_op(
    OpDef(
        "param",
        (),
        infer=_infer_param,
        ref=lambda p, name, **_: p[name],
        cost=free,
        samples=(sample(name="weight", shape=(2, 3)),),
        attrs={
            "name": parameter_name(),
            "shape": listing(),
            "dtype": dtype(DType.F32),
            "mean": number(0.0),
            "std": number(0.0),
            "fan_in": integer(0, least=0, doc="above 0, the start is over sqrt(fan_in), with std 1 unless it is 0"),
            "raised": number(0.0, doc="added to the mean, but not in the start of the paper"),
        },
        params=_own,
        axes=Axes.SOURCE,
        gradient=reads_nothing,
        doc="a trainable parameter",
    )
)
