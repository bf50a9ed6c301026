"""Elementwise ops: arithmetic, functions, comparison, selection. Shapes broadcast as in numpy."""

from __future__ import annotations

from collections.abc import Callable
from math import erf as erf_of
from math import pi
from math import sqrt as sqrt_of
from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import elementwise, free
from flashir.ir.folding import fold_identity
from flashir.ir.graph import Value
from flashir.ir.op import AttrSpec, OpDef, Sample, define_op, dtype, integer, sample
from flashir.ir.traits import (
    Axes,
    GradientRule,
    GrowthRule,
    grows_as_constant,
    grows_as_inverse,
    grows_as_product,
    grows_as_quotient,
    grows_as_root,
    grows_bounded,
    no_gradient,
    reads_nothing,
    reads_operand,
    reads_operands,
    reads_other_side,
    reads_result,
)
from flashir.ir.types import DType, TensorType, broadcast_shapes

F64 = np.ndarray[Any, np.dtype[np.float64]]

TRANSCENDENTAL = 10
"""The cost of a transcendental function of one element, in additions."""

LEAST_LOGGED = 2.0**-126
GELU_RATE, GELU_CUBE = sqrt_of(2 / pi), 0.044715
LAPLACE_MEAN, LAPLACE_DEVIATION = sqrt_of(1 / 2), sqrt_of(1 / (4 * pi))  # value and slope of relu2 at the mean


def least_logged(dtype: DType) -> float:
    """The smallest argument of a logarithm in an element type: 2^-126, or the smallest normal number."""
    return 2.0**-14 if dtype is DType.F16 else LEAST_LOGGED


def broadcast(*types: TensorType) -> TensorType:
    """The type of operands with one element type, broadcast as in numpy."""
    if len({t.dtype for t in types}) != 1:
        raise IRError(f"operands must have one element type, got {' and '.join(str(t.dtype) for t in types)}")
    return types[0].with_shape(broadcast_shapes(*(t.shape for t in types)))


def numeric(*types: TensorType) -> TensorType:
    """`broadcast` for numbers; bool is rejected."""
    if any(t.dtype is DType.BOOL for t in types):
        raise IRError(f"operands must be numbers, got {' and '.join(map(str, types))}", hint="cast a bool first")
    return broadcast(*types)


def compared(*types: TensorType) -> TensorType:
    """`numeric` with a bool result."""
    return numeric(*types).with_dtype(DType.BOOL)


def divided(*types: TensorType) -> TensorType:
    """`broadcast` for floating-point types."""
    floating(types[0])
    return broadcast(*types)


def floating(x: TensorType) -> TensorType:
    """The type of one floating-point operand."""
    if not x.dtype.is_float:
        raise IRError(f"the operand must be of a floating-point type, got {x}")
    return x


def logical(*types: TensorType) -> TensorType:
    """`broadcast` for bools."""
    if any(t.dtype is not DType.BOOL for t in types):
        raise IRError(f"operands must be bool, got {' and '.join(map(str, types))}")
    return broadcast(*types)


def _unary(
    name: str,
    ref: Callable[[Any], Any],
    weight: float,
    doc: str,
    gradient: GradientRule,
    growth: GrowthRule | None = None,
) -> OpDef:
    cases = (sample("f32[2, 3]"), sample("f32[]"))
    traits: dict[str, Any] = {"axes": Axes.ELEMENTWISE, "gradient": gradient, "growth": growth}
    return define_op(
        OpDef(name, ("x",), infer=floating, ref=ref, cost=elementwise(weight), samples=cases, doc=doc, **traits)
    )


def _binary(name: str, ref: Callable[..., Any], doc: str, weight: float = 1, **facts: Any) -> OpDef:
    """Define an op of two operands. `facts` are traits of its record, and `infer` if it is not `numeric`."""
    cases: tuple[Sample, ...] = (
        sample("f32[2, 3]", "f32[3]"),
        sample("f32[2, 1, 4]", "f32[3, 1]"),
        sample("f32[]", "f32[2]"),
    )
    facts = {"infer": numeric, "axes": Axes.ELEMENTWISE, **facts}
    return define_op(OpDef(name, ("x", "y"), ref=ref, cost=elementwise(weight), samples=cases, doc=doc, **facts))


neg = _unary("neg", np.negative, 1, "-x", reads_nothing)
exp = _unary("exp", np.exp, TRANSCENDENTAL, "e to the power of x", reads_result, grows_bounded)
sin = _unary("sin", np.sin, TRANSCENDENTAL, "sine of x radians", reads_operands, grows_bounded)
cos = _unary("cos", np.cos, TRANSCENDENTAL, "cosine of x radians", reads_operands, grows_bounded)
erf = _unary(
    "erf",
    lambda x: np.vectorize(erf_of, otypes=[np.float64])(x),
    TRANSCENDENTAL,
    "the error function",
    reads_operands,
    grows_bounded,
)
tanh = _unary("tanh", np.tanh, TRANSCENDENTAL, "hyperbolic tangent", reads_result, grows_bounded)
sqrt = define_op(
    OpDef(
        "sqrt",
        ("x",),
        infer=floating,
        ref=lambda x: np.sqrt(np.maximum(x, 0)),
        cost=elementwise(4),
        samples=(sample("f32[2, 3]"),),
        axes=Axes.ELEMENTWISE,
        gradient=reads_result,
        growth=grows_as_root,
        doc="square root; 0 below 0",
    )
)
log = define_op(
    OpDef(
        "log",
        ("x",),
        infer=floating,
        ref=lambda x: np.log(np.maximum(x, LEAST_LOGGED)),
        cost=elementwise(TRANSCENDENTAL + 1),
        samples=(sample("f32[2, 3]"), sample("f32[]")),
        axes=Axes.ELEMENTWISE,
        gradient=reads_operands,
        growth=grows_bounded,
        doc="natural logarithm of max(x, 2^-126), which is always finite",
    )
)
reciprocal = _unary("reciprocal", lambda x: 1 / x, 4, "1 / x", reads_result, grows_as_inverse)
relu = _unary("relu", lambda x: np.maximum(x, 0), 1, "max(x, 0)", reads_result)
sigmoid = _unary(
    "sigmoid", lambda x: 0.5 * (1 + np.tanh(0.5 * x)), TRANSCENDENTAL, "1 / (1 + e^-x)", reads_result, grows_bounded
)

add = _binary("add", np.add, "x + y", gradient=reads_nothing, neutral=0, commutative=True)
sub = _binary("sub", np.subtract, "x - y", gradient=reads_nothing, neutral=0)
mul = _binary(
    "mul", np.multiply, "x * y", gradient=reads_other_side, growth=grows_as_product, neutral=1, commutative=True
)
div = _binary(
    "div",
    np.divide,
    "x / y, of floating-point numbers",
    4,
    infer=divided,
    gradient=reads_operands,
    growth=grows_as_quotient,
    neutral=1,
)
maximum = _binary("maximum", np.maximum, "the larger of x and y", gradient=reads_operands, commutative=True, clips=True)
minimum = _binary(
    "minimum", np.minimum, "the smaller of x and y", gradient=reads_operands, commutative=True, clips=True
)
less = _binary("less", np.less, "whether x < y", infer=compared, gradient=no_gradient)
less_equal = _binary("less_equal", np.less_equal, "whether x <= y", infer=compared, gradient=no_gradient)


def _infer_floor_div(x: TensorType, divisor: int) -> TensorType:
    if x.dtype not in (DType.I32, DType.I64):
        raise IRError(f"the operand must be whole numbers, got {x}")
    return x


floor_div = define_op(
    OpDef(
        "floor_div",
        ("x",),
        infer=_infer_floor_div,
        ref=lambda x, divisor: x // divisor,
        cost=elementwise(4),
        samples=(sample("i32[2, 3]", divisor=3, high=20), sample("i32[]", divisor=1)),
        attrs={"divisor": integer(least=1)},
        axes=Axes.ELEMENTWISE,
        gradient=no_gradient,
        doc="the whole part of x / divisor, for whole numbers x from 0",
    )
)

logical_and = define_op(
    OpDef(
        "logical_and",
        ("x", "y"),
        infer=logical,
        ref=np.logical_and,
        cost=elementwise(1),
        samples=(sample("bool[2, 3]", "bool[3]"),),
        axes=Axes.ELEMENTWISE,
        gradient=no_gradient,
        commutative=True,
        doc="whether x and y hold",
    )
)


def _infer_select(condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
    if condition.dtype is not DType.BOOL:
        raise IRError(f"the condition must be bool, got {condition}")
    return broadcast(x, y).with_shape(broadcast_shapes(condition.shape, x.shape, y.shape))


select = define_op(
    OpDef(
        "select",
        ("condition", "x", "y"),
        infer=_infer_select,
        ref=np.where,
        cost=elementwise(1),
        samples=(sample("bool[2, 3]", "f32[3]", "f32[]"), sample("bool[2, 1]", "bool[3]", "bool[]")),
        axes=Axes.ELEMENTWISE,
        gradient=reads_operand(0),
        clips=True,
        doc="x where the condition holds, else y",
    )
)


def _infer_cast(x: TensorType, dtype: DType) -> TensorType:
    return x.with_dtype(dtype)


cast = define_op(
    OpDef(
        "cast",
        ("x",),
        infer=_infer_cast,
        ref=lambda x, dtype: x.astype(dtype.reference_dtype),
        cost=elementwise(1),
        samples=(
            sample("f32[2, 3]", dtype=DType.F64),
            sample("i32[4]", dtype=DType.F32),
            sample("bool[4]", dtype=DType.F32),
        ),
        attrs={"dtype": dtype()},
        axes=Axes.ELEMENTWISE,
        gradient=reads_nothing,
        fold=fold_identity,
        moves=True,
        doc="another element type; a bool becomes 0 or 1",
    )
)


def _infer_constant(value: float, dtype: DType) -> TensorType:
    return TensorType(dtype, ())


constant = define_op(
    OpDef(
        "constant",
        (),
        infer=_infer_constant,
        ref=lambda value, dtype: np.asarray(value, dtype.reference_dtype),
        cost=free,
        samples=(sample(value=1.5), sample(value=3, dtype=DType.I32)),
        attrs={"value": AttrSpec((int, float, bool)), "dtype": dtype(DType.F32)},
        axes=Axes.SOURCE,
        gradient=reads_nothing,
        growth=grows_as_constant,
        inline=True,
        doc="a number of shape []",
    )
)


def _silu(b: Builder, x: Value) -> Value:
    return b.mul(x, b.sigmoid(x))


silu = define_op(
    OpDef(
        "silu",
        ("x",),
        infer=floating,
        ref=lambda x: x / (1 + np.exp(-x)),
        cost=elementwise(TRANSCENDENTAL + 1),
        samples=(sample("f32[2, 3]"), sample("f32[]")),
        decompose=_silu,
        axes=Axes.ELEMENTWISE,
        doc="x * sigmoid(x), also called swish",
    )
)


def _gelu(b: Builder, x: Value) -> Value:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2"""
    inner = b.mul(b.add(b.mul(b.mul(x, x), GELU_RATE * GELU_CUBE), GELU_RATE), x)
    return b.mul(b.mul(x, 0.5), b.add(b.tanh(inner), 1.0))


gelu = define_op(
    OpDef(
        "gelu",
        ("x",),
        infer=floating,
        ref=lambda x: x / (1 + np.exp(np.minimum(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3), 700))),
        cost=elementwise(TRANSCENDENTAL + 7),
        samples=(sample("f32[2, 3]"), sample("f32[]")),
        decompose=_gelu,
        axes=Axes.ELEMENTWISE,
        doc="x times the normal cumulative distribution at x, in its tanh form",
        source="Hendrycks & Gimpel 2016",
    )
)


def _relu2(b: Builder, x: Value) -> Value:
    r = b.relu(x)
    return b.mul(r, r)


relu2 = define_op(
    OpDef(
        "relu2",
        ("x",),
        infer=floating,
        ref=lambda x: np.square(np.maximum(x, 0)),
        cost=elementwise(2),
        samples=(sample("f32[2, 3]"), sample("f32[]")),
        decompose=_relu2,
        axes=Axes.ELEMENTWISE,
        doc="max(x, 0) squared",
        source="Code 6",
    )
)


def _laplace(b: Builder, x: Value) -> Value:
    return b.mul(b.add(b.erf(b.mul(b.sub(x, LAPLACE_MEAN), 1 / (LAPLACE_DEVIATION * sqrt_of(2)))), 1.0), 0.5)


laplace = define_op(
    OpDef(
        "laplace",
        ("x",),
        infer=floating,
        ref=lambda x: 0.5 + 0.5 * erf.ref((x - np.sqrt(0.5)) * np.sqrt(2 * np.pi)),
        cost=elementwise(TRANSCENDENTAL + 4),
        samples=(sample("f32[2, 3]"), sample("f32[]")),
        decompose=_laplace,
        axes=Axes.ELEMENTWISE,
        doc="(1 + erf((x - mean) / (deviation sqrt 2))) / 2, close to relu2 and bounded by 1",
        source="Mega, Ma et al. 2022",
    )
)


def _divide_no_nan_ref(x: F64, y: F64) -> F64:
    positive = np.broadcast_to(y > 0, np.broadcast_shapes(x.shape, y.shape))
    return np.divide(x, y, out=np.zeros(positive.shape), where=positive)


def _divide_no_nan(b: Builder, x: Value, y: Value) -> Value:
    positive = b.less(b.constant(0.0, y.type.dtype), y)
    return b.select(positive, b.div(x, b.select(positive, y, 1.0)), 0.0)


divide_no_nan = define_op(
    OpDef(
        "divide_no_nan",
        ("x", "y"),
        infer=divided,
        ref=_divide_no_nan_ref,
        cost=elementwise(5),
        samples=(sample("f32[2, 3]", "f32[3]"),),
        decompose=_divide_no_nan,
        axes=Axes.ELEMENTWISE,
        doc="x / y, and 0 where y is not positive",
        source="Code 7",
    )
)
