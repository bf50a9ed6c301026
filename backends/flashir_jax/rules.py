"""The table of rules, one per op. Loops are in `functions.py`, which walks the graph.

A rule takes the sizes of the graph's symbols, the node and its operands, and returns the result or a tuple of results.
A size is a number, or a symbolic dimension of JAX in an export.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.errors import InconclusiveDimensionOperation

from flashir.ir import DType, Node, Size, evaluate
from flashir.ops.primitive.elementwise import least_logged
from flashir_jax.positions import positions, sinusoid, wide_sinusoid
from flashir_jax.types import accumulator, element_type

Sizes = Mapping[str, Any]
Rule = Callable[..., Any]
TOKENS_FIRST = ("NWC", "WIO", "NWC")
"""The layouts of the operands and the result of a convolution."""


def _as(function: Callable[..., Any]) -> Rule:
    """A rule for a JAX function with the same operands."""
    return lambda sizes, node, *operands: function(*operands)


def _attr(node: Node, name: str) -> Any:
    return node.attrs[name]


def _type(node: Node) -> np.dtype[Any]:
    """The JAX dtype of the first result."""
    return element_type(node.output.type.dtype)


def _shape(sizes: Sizes, shape: Sequence[Size]) -> tuple[Any, ...]:
    return tuple(evaluate(size, sizes) for size in shape)


def _sqrt(x: Any) -> Any:
    return jnp.sqrt(jnp.maximum(x, 0))


def _log(sizes: Sizes, node: Node, x: Any) -> Any:
    return jnp.log(jnp.maximum(x, least_logged(node.output.type.dtype)))


def _literal(sizes: Sizes, node: Node) -> Any:
    return np.asarray(_attr(node, "values"), np.float64).reshape(_attr(node, "shape")).astype(_type(node))


def _softmax(sizes: Sizes, node: Node, x: Any) -> Any:
    """jax.nn.softmax has a gradient rule that saves only the result."""
    return jax.nn.softmax(x.astype(accumulator(x.dtype)), axis=-1).astype(x.dtype)


def _floor_div(sizes: Sizes, node: Node, x: Any) -> Any:
    return x // _attr(node, "divisor")


def _cast(sizes: Sizes, node: Node, x: Any) -> Any:
    return x.astype(_type(node))


def _constant(sizes: Sizes, node: Node) -> Any:
    return np.asarray(_attr(node, "value"), _type(node))


def _size(sizes: Sizes, node: Node) -> Any:
    return jnp.asarray(evaluate(_attr(node, "value"), sizes)).astype(_type(node))


def _iota(sizes: Sizes, node: Node) -> Any:
    return lax.iota(_type(node), evaluate(_attr(node, "length"), sizes))


def _reshape(sizes: Sizes, node: Node, x: Any) -> Any:
    return jnp.reshape(x, _shape(sizes, _attr(node, "shape")))


def _transpose(sizes: Sizes, node: Node, x: Any) -> Any:
    return jnp.transpose(x, _attr(node, "perm"))


def _broadcast(sizes: Sizes, node: Node, x: Any) -> Any:
    return jnp.broadcast_to(x, _shape(sizes, _attr(node, "shape")))


def _pad(sizes: Sizes, node: Node, x: Any) -> Any:
    widths: list[tuple[Any, Any, int]] = [(0, 0, 0)] * np.ndim(x)
    before, after = _shape(sizes, (_attr(node, "before"), _attr(node, "after")))
    widths[_attr(node, "axis")] = (before, after, 0)
    return lax.pad(x, np.asarray(_attr(node, "value"), x.dtype), widths)


def _slice(sizes: Sizes, node: Node, x: Any) -> Any:
    """Bounds are clamped as in NumPy: 1 to T of an empty sequence is empty."""
    axis = _attr(node, "axis")
    start, stop = _shape(sizes, (_attr(node, "start"), _attr(node, "stop")))
    if all(isinstance(size, int) for size in (start, stop, x.shape[axis])):
        start = min(start, x.shape[axis])
        stop = min(max(start, stop), x.shape[axis])
    try:
        return lax.slice_in_dim(x, start, stop, axis=axis)
    except InconclusiveDimensionOperation:  # JAX cannot compare multiples of two chunks for every length
        return jnp.take(x, start + jnp.arange(stop - start), axis=axis, mode="clip")


def _split(sizes: Sizes, node: Node, x: Any) -> tuple[Any, ...]:
    ends = np.cumsum([0, *_shape(sizes, _attr(node, "sizes"))])
    axis = _attr(node, "axis")
    return tuple(lax.slice_in_dim(x, start, stop, axis=axis) for start, stop in pairwise(ends))


def _concat(sizes: Sizes, node: Node, *xs: Any) -> Any:
    return jnp.concatenate(xs, axis=_attr(node, "axis"))


def _reverse(sizes: Sizes, node: Node, x: Any) -> Any:
    return jnp.flip(x, _attr(node, "axis"))


def _gather(sizes: Sizes, node: Node, table: Any, ids: Any) -> Any:
    """A row out of range is NaN, rather than another row."""
    return jnp.take(table, ids, axis=0, mode="fill")


def _put_rows(sizes: Sizes, node: Node, table: Any, rows: Any, ids: Any) -> Any:
    def put(table: Any, rows: Any, ids: Any) -> Any:
        return table.at[ids].set(rows, mode="drop")

    for _ in range(table.ndim - 3):
        put = jax.vmap(put, in_axes=(0, 0, None))
    return jax.vmap(put)(table, rows, ids)


def _matmul(sizes: Sizes, node: Node, x: Any, y: Any) -> Any:
    """Products of narrow floats are accumulated in float32."""
    m, n = (-1 if _attr(node, "transpose_x") else -2), (-2 if _attr(node, "transpose_y") else -1)
    wide = accumulator(x.dtype)
    if y.ndim == 2 and m == -2:
        dims: Any = (((x.ndim - 1,), (1 if n == -2 else 0,)), ((), ()))
    elif x.shape[:-2] == y.shape[:-2]:
        batch = tuple(range(x.ndim - 2))
        dims = (((x.ndim - 3 - m,), (y.ndim - 3 - n,)), (batch, batch))  # the other one of the last two axes
    else:
        left, right = (x.swapaxes(-1, -2) if m == -1 else x), (y.swapaxes(-1, -2) if n == -2 else y)
        return jnp.matmul(left, right, preferred_element_type=wide).astype(x.dtype)
    return lax.dot_general(x, y, dims, preferred_element_type=wide).astype(x.dtype)


def _conv(sizes: Sizes, node: Node, x: Any, weight: Any) -> Any:
    result = lax.conv_general_dilated(
        x,
        weight,
        (_attr(node, "stride"),),
        [_attr(node, "pads")],
        rhs_dilation=(_attr(node, "dilation"),),
        dimension_numbers=TOKENS_FIRST,
        feature_group_count=_attr(node, "groups"),
        preferred_element_type=accumulator(x.dtype),
    )
    return result.astype(x.dtype)


def _conv_transpose(sizes: Sizes, node: Node, x: Any, weight: Any) -> Any:
    """A convolution of the tokens with zeros between them, the taps in reverse."""
    last = weight.shape[0] - 1
    before, after = _attr(node, "pads")
    result = lax.conv_general_dilated(
        x,
        jnp.flip(weight, 0),
        (1,),
        [(last - before, last - after)],
        lhs_dilation=(_attr(node, "stride"),),
        dimension_numbers=TOKENS_FIRST,
        preferred_element_type=accumulator(x.dtype),
    )
    return result.astype(x.dtype)


def _reduce(function: Callable[..., Any]) -> Rule:
    def rule(sizes: Sizes, node: Node, x: Any) -> Any:
        return function(x, axis=_attr(node, "axes"), keepdims=_attr(node, "keepdims"))

    return rule


def _extreme(function: Callable[..., Any], bound: str) -> Rule:
    """A maximum or minimum; of no elements, the limit of the dtype."""

    def rule(sizes: Sizes, node: Node, x: Any) -> Any:
        first = {"min": -np.inf, "max": np.inf}[bound]
        if not jnp.issubdtype(x.dtype, jnp.floating):
            first = getattr(np.iinfo(x.dtype), bound)
        initial = np.asarray(first, x.dtype)
        return function(x, axis=_attr(node, "axes"), keepdims=_attr(node, "keepdims"), initial=initial)

    return rule


def _cumsum(sizes: Sizes, node: Node, x: Any) -> Any:
    """An associative scan, or a sequential one if the length is symbolic.

    XLA computes jnp.cumsum as sums over windows, whose work grows with the square of the length.
    """
    axis, exclusive = _attr(node, "axis") % x.ndim, _attr(node, "exclusive")
    items = jnp.moveaxis(x.astype(accumulator(x.dtype)), axis, 0)
    zero = jnp.zeros(items.shape[1:], items.dtype)
    if not isinstance(items.shape[0], int):

        def step(state: Any, item: Any) -> tuple[Any, Any]:
            return state + item, state if exclusive else state + item

        _, sums = lax.scan(step, zero, items)
    elif exclusive:  # shift by one; subtracting the element would round, and depend on it
        sums = jnp.concatenate([zero[None], lax.associative_scan(jnp.add, items[:-1])])[: len(items)]
    else:
        sums = lax.associative_scan(jnp.add, items)
    return jnp.moveaxis(sums, 0, axis).astype(x.dtype)


def _sinusoid(sizes: Sizes, node: Node) -> tuple[Any, Any]:
    return _turned(node, positions(evaluate(_attr(node, "length"), sizes)))


def _sinusoid_at(sizes: Sizes, node: Node, position: Any) -> tuple[Any, Any]:
    return _turned(node, position)


def _turned(node: Node, position: Any) -> tuple[Any, Any]:
    make = wide_sinusoid if _attr(node, "dtype") is DType.F64 else sinusoid
    sin, cos = make(position, _attr(node, "half"))
    return sin.astype(_type(node)), cos.astype(_type(node))


RULES: dict[str, Rule] = {
    "add": _as(jnp.add), "sub": _as(jnp.subtract), "mul": _as(jnp.multiply), "div": _as(jnp.divide),
    "neg": _as(jnp.negative), "exp": _as(jnp.exp), "sin": _as(jnp.sin), "cos": _as(jnp.cos), "tanh": _as(jnp.tanh),
    "erf": _as(lax.erf), "relu": _as(jax.nn.relu), "sigmoid": _as(jax.nn.sigmoid), "silu": _as(jax.nn.silu),
    "sqrt": _as(_sqrt), "reciprocal": _as(jnp.reciprocal), "maximum": _as(jnp.maximum), "minimum": _as(jnp.minimum),
    "less": _as(jnp.less), "less_equal": _as(jnp.less_equal), "logical_and": _as(jnp.logical_and),
    "select": _as(jnp.where), "cast": _cast, "constant": _constant, "size": _size, "iota": _iota,
    "reshape": _reshape, "transpose": _transpose, "broadcast": _broadcast, "pad": _pad, "slice": _slice,
    "split": _split, "concat": _concat, "reverse": _reverse, "gather": _gather, "matmul": _matmul, "cumsum": _cumsum,
    "reduce_sum": _reduce(jnp.sum), "reduce_mean": _reduce(jnp.mean), "reduce_max": _extreme(jnp.max, "min"),
    "reduce_min": _extreme(jnp.min, "max"), "sinusoid": _sinusoid, "sinusoid_at": _sinusoid_at,
    "log": _log, "literal": _literal, "softmax": _softmax, "floor_div": _floor_div, "put_rows": _put_rows,
    "conv1d": _conv, "conv_transpose1d": _conv_transpose,
}  # fmt: skip
