"""The table of emitters, one per supported op.

An emitter takes the scope, the node and the names of its operands, and returns the names of its results. It writes what
the opset of the scope has, from 17 on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flashir.ir import Dim, DType, Node, Size, TensorType
from flashir.ops.primitive.elementwise import least_logged
from flashir_onnx.scope import Scope
from flashir_onnx.types import element_type, numpy_type

Emitter = Callable[..., str | tuple[str, ...]]

AXES_AS_INPUT = 18
"""The opset in which the axes of mean, largest and smallest became an input. Those of a sum had been one before."""


def _as(kind: str, **fixed: Any) -> Emitter:
    """An emitter for an ONNX operator with the same operands."""
    return lambda scope, node, *operands: scope.one(kind, *operands, **fixed)


def _number(scope: Scope, value: float, dtype: DType) -> str:
    return scope.constant(np.array(value, numpy_type(dtype)))


def _numbers(scope: Scope, *values: int) -> str:
    return scope.constant(np.array(values, np.int64))


def _type(node: Node, operand: int = 0) -> TensorType:
    value = node.inputs[operand]
    assert value is not None
    return value.type


def _attr(node: Node, name: str) -> Any:
    return node.attrs[name]


def _scalar(scope: Scope, size: Size) -> str:
    """A size as an int64 of shape []."""
    if isinstance(size, int):
        return scope.constant(np.array(size, np.int64))
    return scope.one("Squeeze", scope.shape(size), stem="length")


def cast(scope: Scope, x: str, dtype: DType) -> str:
    """x in another type."""
    return scope.one("Cast", x, to=element_type(dtype))


def _size(scope: Scope, node: Node) -> str:
    x = _scalar(scope, _attr(node, "value"))
    return x if numpy_type(_attr(node, "dtype")) == np.int64 else cast(scope, x, _attr(node, "dtype"))


def _iota(scope: Scope, node: Node) -> str:
    x = iota(scope, _attr(node, "length"))
    return x if numpy_type(_attr(node, "dtype")) == np.int64 else cast(scope, x, _attr(node, "dtype"))


def iota(scope: Scope, size: Size) -> str:
    """0, 1 .. size - 1 in int64."""
    zero, one = (scope.constant(np.array(n, np.int64)) for n in (0, 1))
    return scope.one("Range", zero, _scalar(scope, size), one)


def _reshape(scope: Scope, node: Node, x: str) -> str:
    return reshape(scope, x, _type(node).shape, _attr(node, "shape"))


def reshape(scope: Scope, x: str, before: Sequence[Size], after: Sequence[Size]) -> str:
    """Reshape to a constant shape if sizes can be copied (0) or one inferred (-1), otherwise to a computed shape.

    Copied and inferred sizes are not combined, because the inferred size of an empty tensor is ambiguous.
    """
    target: list[int] = []
    for axis, size in enumerate(after):
        is_copied = axis < len(before) and before[axis] == size
        target.append(size if isinstance(size, int) else 0 if is_copied else -1)
    inferred, copied = target.count(-1), target.count(0)
    if 0 not in after and (inferred == 0 or (inferred == 1 and copied == 0)):
        return scope.one("Reshape", x, _numbers(scope, *target))
    return scope.one("Reshape", x, scope.shape(*after), allowzero=1)


def _broadcast(scope: Scope, node: Node, x: str) -> str:
    return scope.one("Expand", x, scope.shape(*_attr(node, "shape")))


def _pad(scope: Scope, node: Node, x: str) -> str:
    type_, axis = _type(node), _attr(node, "axis")
    before, after = [0] * type_.rank, [0] * type_.rank
    before[axis], after[axis] = _attr(node, "before"), _attr(node, "after")
    return scope.one("Pad", x, scope.shape(*before, *after), _number(scope, _attr(node, "value"), type_.dtype))


def _slice(scope: Scope, node: Node, x: str) -> str:
    axis = _numbers(scope, _attr(node, "axis"))
    return scope.one("Slice", x, scope.shape(_attr(node, "start")), scope.shape(_attr(node, "stop")), axis)


def _reverse(scope: Scope, node: Node, x: str) -> str:
    first, before_all, back = _numbers(scope, -1), _numbers(scope, np.iinfo(np.int64).min), _numbers(scope, -1)
    return scope.one("Slice", x, first, before_all, _numbers(scope, _attr(node, "axis")), back)


def _split(scope: Scope, node: Node, x: str) -> tuple[str, ...]:
    sizes = scope.shape(*_attr(node, "sizes"))
    return scope.op("Split", x, sizes, axis=_attr(node, "axis"), outputs=len(node.outputs))


def _concat(scope: Scope, node: Node, *xs: str) -> str:
    return scope.one("Concat", *xs, axis=_attr(node, "axis"))


def _transpose(scope: Scope, node: Node, x: str) -> str:
    return scope.one("Transpose", x, perm=list(_attr(node, "perm")))


def _reduce(kind: str) -> Emitter:
    def emit(scope: Scope, node: Node, x: str) -> str:
        axes, keepdims = _attr(node, "axes"), int(_attr(node, "keepdims"))
        if scope.opset < AXES_AS_INPUT:
            return scope.one(kind, x, axes=list(axes), keepdims=keepdims)
        return scope.one(kind, x, _numbers(scope, *axes), keepdims=keepdims)

    return emit


def _reduce_sum(scope: Scope, node: Node, x: str) -> str:
    """ONNX Runtime adds up rows one by one: a product with ones takes a fiftieth of the time of a sum over many."""
    type_ = _type(node)
    if _attr(node, "axes") == (type_.rank - 2,) and _attr(node, "keepdims") and type_.dtype is DType.F32:
        one = _number(scope, 1.0, type_.dtype)
        return scope.one("MatMul", scope.one("Expand", one, scope.shape(1, type_.shape[-2])), x)
    return scope.one("ReduceSum", x, _numbers(scope, *_attr(node, "axes")), keepdims=int(_attr(node, "keepdims")))


def _cumsum(scope: Scope, node: Node, x: str) -> str:
    axis = scope.constant(np.array(_attr(node, "axis"), np.int64))
    return scope.one("CumSum", x, axis, exclusive=int(_attr(node, "exclusive")))


def swap_last(scope: Scope, x: str, rank: int) -> str:
    """x with its last two axes exchanged."""
    return scope.one("Transpose", x, perm=[*range(rank - 2), rank - 1, rank - 2])


def _matmul(scope: Scope, node: Node, x: str, y: str) -> str:
    """Gemm reads a shared transposed matrix in place. Runtimes fuse other transposes into the product."""
    left, right = _type(node, 0), _type(node, 1)
    if _attr(node, "transpose_y") and right.rank == 2 and not _attr(node, "transpose_x"):
        return _gemm(scope, node, x, y, transB=1)
    x = swap_last(scope, x, left.rank) if _attr(node, "transpose_x") else x
    y = swap_last(scope, y, right.rank) if _attr(node, "transpose_y") else y
    return scope.one("MatMul", x, y)


def _gemm(scope: Scope, node: Node, x: str, *weights: str, **attrs: int) -> str:
    """Gemm on all rows as one matrix. Unlike MatMul and Add, it adds the bias without another pass."""
    type_ = _type(node)
    if type_.rank == 2 or isinstance(type_.shape[-1], Dim):
        return scope.one("Gemm", x, *weights, **attrs)
    rows = scope.one("Reshape", x, _numbers(scope, -1, type_.shape[-1]), stem="rows")
    return reshape(scope, scope.one("Gemm", rows, *weights, **attrs), (), node.output.type.shape)


def _dense(scope: Scope, node: Node, x: str, weight: str, bias: str) -> str:
    """For a single token, the reshapes around Gemm would cost more than adding the bias."""
    if _type(node).rank > 2 and (_type(node).shape[-2] == 1 or scope.few_rows):
        return scope.one("Add", scope.one("MatMul", x, weight), bias)
    return _gemm(scope, node, x, weight, bias)


def _silu(scope: Scope, node: Node, x: str) -> str:
    return scope.one("Mul", x, scope.one("Sigmoid", x))


def _floor_div(scope: Scope, node: Node, x: str) -> str:
    return scope.one("Div", x, scope.constant(np.array(_attr(node, "divisor"), np.int64)))


def _put_rows(scope: Scope, node: Node, table: str, rows: str, ids: str) -> str:
    """ScatterND with one index per leading axis. It can update a table in place."""
    lead = _type(node, 1).shape[:-2]
    places = scope.once(("places", ids, lead), lambda: _places(scope, node, ids))
    return scope.one("ScatterND", table, places, rows)


def _places(scope: Scope, node: Node, ids: str) -> str:
    """The index of each row along all axes before its numbers."""
    *lead, count, _ = _type(node, 1).shape
    places = [_along(scope, iota(scope, size), axis, (*lead, count)) for axis, size in enumerate(lead)]
    spread = [size if axis in (0, len(lead)) else 1 for axis, size in enumerate((*lead, count))]
    places.append(scope.one("Expand", reshape(scope, ids, _type(node, 2).shape, spread), scope.shape(*lead, count)))
    columns = [scope.one("Unsqueeze", x, _numbers(scope, -1), stem="place") for x in places]
    return scope.one("Concat", *columns, axis=-1, stem="places")


def _along(scope: Scope, x: str, axis: int, shape: Sequence[Size]) -> str:
    """Broadcast x [n] along an axis of a shape."""
    column = scope.one("Unsqueeze", x, _numbers(scope, *range(1, len(shape) - axis)))
    return scope.one("Expand", column, scope.shape(*shape))


def _sqrt(scope: Scope, node: Node, x: str) -> str:
    return scope.one("Sqrt", scope.one("Max", x, _number(scope, 0, _type(node).dtype)))


def _cos(scope: Scope, node: Node, x: str) -> str:
    """ONNX Runtime has no Cos of float64 on a CPU before 1.29, but a Sin."""
    if _type(node).dtype is not DType.F64:
        return scope.one("Cos", x)
    return scope.one("Sin", scope.one("Add", x, _number(scope, np.pi / 2, DType.F64)), stem="cos")


def _log(scope: Scope, node: Node, x: str) -> str:
    dtype = _type(node).dtype
    return scope.one("Log", scope.one("Max", x, _number(scope, least_logged(dtype), dtype)))


def _layer_normalization(scope: Scope, node: Node, x: str, scale: str, bias: str) -> str:
    return scope.one("LayerNormalization", x, scale, bias, axis=-1, epsilon=float(_attr(node, "eps")))


def _conv(scope: Scope, node: Node, x: str, weight: str) -> str:
    """Conv with channels before tokens. ONNX Runtime fails on empty results, so one more token is computed and cut."""
    length, pads = node.output.type.shape[1], list(_attr(node, "pads"))
    certain = isinstance(length, int) and length > 0
    result = scope.one(
        "Conv",
        scope.one("Transpose", x, perm=[0, 2, 1], stem="channels"),
        scope.one("Transpose", weight, perm=[2, 1, 0], stem="kernel"),
        group=_attr(node, "groups"),
        dilations=[_attr(node, "dilation")],
        strides=[_attr(node, "stride")],
        pads=pads if certain else [pads[0], pads[1] + _attr(node, "stride")],
    )
    if not certain:
        result = scope.one("Slice", result, _numbers(scope, 0), scope.shape(length), _numbers(scope, 2))
    return scope.one("Transpose", result, perm=[0, 2, 1])


def _conv_transpose(scope: Scope, node: Node, x: str, weight: str) -> str:
    channels = scope.one("Transpose", x, perm=[0, 2, 1], stem="channels")
    kernel = scope.one("Transpose", weight, perm=[1, 2, 0], stem="kernel")
    placed = {"strides": [_attr(node, "stride")], "pads": list(_attr(node, "pads"))}
    return scope.one("Transpose", scope.one("ConvTranspose", channels, kernel, **placed), perm=[0, 2, 1])


def _select(scope: Scope, node: Node, condition: str, x: str, y: str) -> str:
    """ONNX Runtime has no Where for bool."""
    if node.output.type.dtype is not DType.BOOL:
        return scope.one("Where", condition, x, y)
    return scope.one("Or", scope.one("And", condition, x), scope.one("And", scope.one("Not", condition), y))


def _constant(scope: Scope, node: Node) -> str:
    return _number(scope, _attr(node, "value"), _attr(node, "dtype"))


def _literal(scope: Scope, node: Node) -> str:
    numbers = np.array(_attr(node, "values"), np.float64).reshape(_attr(node, "shape"))
    return scope.constant(numbers.astype(numpy_type(_attr(node, "dtype"))))


def _cast_node(scope: Scope, node: Node, x: str) -> str:
    return cast(scope, x, _attr(node, "dtype"))


EMITTERS: dict[str, Emitter] = {
    "add": _as("Add"), "sub": _as("Sub"), "mul": _as("Mul"), "div": _as("Div"), "neg": _as("Neg"), "exp": _as("Exp"),
    "sin": _as("Sin"), "cos": _cos, "tanh": _as("Tanh"), "relu": _as("Relu"), "sigmoid": _as("Sigmoid"),
    "reciprocal": _as("Reciprocal"), "sqrt": _sqrt, "maximum": _as("Max"), "minimum": _as("Min"), "less": _as("Less"),
    "less_equal": _as("LessOrEqual"), "logical_and": _as("And"), "select": _select, "cast": _cast_node,
    "constant": _constant, "size": _size, "iota": _iota, "reshape": _reshape, "transpose": _transpose,
    "broadcast": _broadcast, "pad": _pad, "slice": _slice, "split": _split, "concat": _concat, "reverse": _reverse,
    "gather": _as("Gather", axis=0), "matmul": _matmul, "dense": _dense, "silu": _silu, "cumsum": _cumsum,
    "reduce_sum": _reduce_sum, "reduce_mean": _reduce("ReduceMean"), "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"), "layer_normalization": _layer_normalization, "softmax": _as("Softmax", axis=-1),
    "erf": _as("Erf"), "log": _log, "literal": _literal, "floor_div": _floor_div, "put_rows": _put_rows,
    "conv1d": _conv, "conv_transpose1d": _conv_transpose,
}  # fmt: skip
