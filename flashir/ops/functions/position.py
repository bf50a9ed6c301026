"""Positions: sinusoids, rotary embedding (Code 3), relative position bias (Code 4)."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

import numpy as np

from flashir.errors import InputError, IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import Contraction, Cost, Types, copied, elementwise, moved
from flashir.ir.dims import Dim, Size, ceildiv
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, define_op, dtype, flag, integer, sample, size
from flashir.ir.streaming import States, StreamingRule
from flashir.ir.traits import Axes, reads_nothing
from flashir.ir.types import DType, Shape, TensorType, broadcast_shapes
from flashir.ops.decode.context import DecodeContext, column
from flashir.ops.decode.kv_cache import by_distance
from flashir.ops.functions.norm import accumulation_dtype, as_dtype
from flashir.ops.primitive.elementwise import TRANSCENDENTAL
from flashir.ops.primitive.shape import axis_of

MAX_PERIOD = 10000.0
TABLE = 64  # positions in the short table of sines


def _infer_sinusoid(length: Size, half: int, dtype: DType) -> tuple[TensorType, TensorType]:
    return TensorType(dtype, (length, half)), TensorType(dtype, (length, half))


def ref_sinusoid(length: int, half: int, dtype: DType) -> tuple[Any, Any]:
    """`sinusoid` in numpy."""
    angles = np.arange(length)[:, None] * MAX_PERIOD ** (-np.arange(half) / half)[None, :]
    return np.sin(angles), np.cos(angles)


def _decompose_sinusoid(b: Builder, length: Size, half: int, dtype: DType) -> tuple[Value, Value]:
    """Rotate by the angle of 64 i and then of j for position 64 i + j: two short tables of sines replace a long one.

    The short tables are computed in float64. In float32, position 10^5 is off by 10^-2 radians, and every layer
    depends on it.
    """
    rounds = ceildiv(length, TABLE)
    (sin_i, cos_i), (sin_j, cos_j) = _turns(b, rounds, TABLE, half, dtype), _turns(b, TABLE, 1, half, dtype)
    far, near = (rounds, 1, half), (1, TABLE, half)
    sin_i, cos_i = b.reshape(sin_i, shape=far), b.reshape(cos_i, shape=far)
    sin_j, cos_j = b.reshape(sin_j, shape=near), b.reshape(cos_j, shape=near)
    sin = b.add(b.mul(sin_i, cos_j), b.mul(cos_i, sin_j))
    cos = b.sub(b.mul(cos_i, cos_j), b.mul(sin_i, sin_j))
    return _first_rows(b, sin, length, dtype), _first_rows(b, cos, length, dtype)


def _turns(b: Builder, count: Size, step: int, half: int, dtype: DType) -> tuple[Value, Value]:
    """sin and cos of the positions 0, step, 2 step, .., [count, half] each"""
    rates = b.exp(b.mul(b.iota(length=half, dtype=DType.F64), -log(MAX_PERIOD) / half))
    positions = b.mul(b.reshape(b.iota(length=count, dtype=DType.F64), shape=(count, 1)), float(step))
    angles = b.mul(positions, b.reshape(rates, shape=(1, half)))
    return as_dtype(b, b.sin(angles), accumulation_dtype(dtype)), as_dtype(b, b.cos(angles), accumulation_dtype(dtype))


def _first_rows(b: Builder, x: Value, length: Size, dtype: DType) -> Value:
    rounds, table, half = x.type.shape
    rows = b.reshape(x, shape=(rounds * table, half))
    return as_dtype(b, rows if rounds * table == length else b.slice(rows, axis=0, stop=length), dtype)


sinusoid = define_op(
    OpDef(
        "sinusoid",
        (),
        infer=_infer_sinusoid,
        ref=ref_sinusoid,
        cost=elementwise(2 * TRANSCENDENTAL),
        samples=(sample(length=7, half=4), sample(length=0, half=2), sample(length=200, half=3)),
        attrs={"length": size(), "half": integer(least=1), "dtype": dtype(DType.F32)},
        decompose=_decompose_sinusoid,
        axes=Axes.SOURCE,
        gradient=reads_nothing,
        doc="sin and cos of position * 10000^(-i / half), [length, half] each",
    )
)


def _infer_sinusoid_at(positions: TensorType, half: int, dtype: DType) -> tuple[TensorType, TensorType]:
    if positions.dtype not in (DType.I32, DType.I64):
        raise IRError(f"positions must be whole numbers, got {positions}")
    table = TensorType(dtype, (*positions.shape, half))
    return table, table


def ref_sinusoid_at(positions: Any, half: int, dtype: DType) -> tuple[Any, Any]:
    """`sinusoid_at` in numpy."""
    angles = np.multiply.outer(positions, MAX_PERIOD ** (-np.arange(half) / half))
    return np.sin(angles), np.cos(angles)


def _decompose_sinusoid_at(b: Builder, positions: Value, half: int, dtype: DType) -> tuple[Value, Value]:
    """Compute in float64, because in float32 position 10^5 is off by 10^-2 radians. A step has few positions."""
    rates = b.exp(b.mul(b.iota(length=half, dtype=DType.F64), -log(MAX_PERIOD) / half))
    angles = b.mul(column(b, b.cast(positions, dtype=DType.F64)), rates)
    return as_dtype(b, b.sin(angles), dtype), as_dtype(b, b.cos(angles), dtype)


sinusoid_at = define_op(
    OpDef(
        "sinusoid_at",
        ("positions",),
        infer=_infer_sinusoid_at,
        ref=ref_sinusoid_at,
        cost=elementwise(2 * TRANSCENDENTAL),
        samples=(sample("i32[2, 3]", half=4, high=200000), sample("i32[]", half=2)),
        attrs={"half": integer(least=1), "dtype": dtype(DType.F32)},
        decompose=_decompose_sinusoid_at,
        doc="sin and cos of position * 10000^(-i / half) at given positions, [.., half] each",
    )
)


def _infer_rope(x: TensorType, axis: int, dims: int | None, interleaved: bool) -> TensorType:
    if axis_of(x, axis) == x.rank - 1:
        raise IRError(
            f"rope rotates pairs of the last axis, so positions need an axis before it, got axis {axis} of {x}"
        )
    last = x.shape[-1]
    if isinstance(last, Dim) or (last if dims is None else dims) % 2 or not x.dtype.is_float:
        raise IRError(f"rope rotates pairs of the last axis, so it must be even, got {x}" + _of(dims))
    if dims is not None and dims > last:
        raise IRError(f"rope cannot rotate more than the last axis, got {x}" + _of(dims))
    return x


def _of(dims: int | None) -> str:
    return "" if dims is None else f" with dims = {dims}"


def ref_rope(x: Any, axis: int, dims: int | None = None, interleaved: bool = False) -> Any:
    """`rope` in numpy, by rotating complex numbers."""
    width = x.shape[-1] if dims is None else dims
    first, second = (
        (slice(0, width, 2), slice(1, width, 2)) if interleaved else (slice(width // 2), slice(width // 2, width))
    )
    sin, cos = ref_sinusoid(x.shape[axis], width // 2, DType.F64)
    spread = [1] * x.ndim
    spread[axis], spread[-1] = x.shape[axis], width // 2
    pairs = (x[..., first] + 1j * x[..., second]) * (cos + 1j * sin).reshape(spread)
    out = np.array(x)
    out[..., first], out[..., second] = pairs.real, pairs.imag
    return out


def _decompose_rope(b: Builder, x: Value, axis: int, dims: int | None, interleaved: bool) -> Value:
    """Rotate in float32 or wider, by tables of sin and cos along the axis. Elements from `dims` on stay."""
    head, rest = _head(b, x, dims)
    if rest is not None:
        return b.concat(b.rope(head, axis=axis, interleaved=interleaved), rest, axis=-1)
    length, half = x.type.shape[axis], _half(x)
    tables = b.results("sinusoid", length=length, half=half, dtype=accumulation_dtype(x.type.dtype))
    return _turned_by(b, x, tables, (length, *(1,) * (x.type.rank - axis - 2), half), interleaved)


def _step_rope(
    now: DecodeContext, states: States, x: Value, axis: int, dims: int | None, interleaved: bool
) -> tuple[Value, States]:
    """Rotate by the positions of the new tokens in each row."""
    b = now.b
    head, rest = _head(b, x, dims)
    tables = b.results("sinusoid_at", now.positions(), half=_half(head), dtype=accumulation_dtype(x.type.dtype))
    spread: list[Size] = [1] * x.type.rank
    spread[0], spread[axis], spread[-1] = now.batch, now.length, _half(head)
    rotated = _turned_by(b, head, tables, tuple(spread), interleaved)
    return rotated if rest is None else b.concat(rotated, rest, axis=-1), {}


def _head(b: Builder, x: Value, dims: int | None) -> tuple[Value, Value | None]:
    """The part to rotate, and the rest or None."""
    last = x.type.shape[-1]
    if dims is None or dims == last:
        return x, None
    assert isinstance(last, int)
    head, rest = b.results("split", x, axis=-1, sizes=(dims, last - dims))
    return head, rest


def _half(x: Value) -> int:
    last = x.type.shape[-1]
    assert isinstance(last, int)
    return last // 2


def _turned_by(b: Builder, x: Value, tables: Sequence[Value], spread: Shape, interleaved: bool) -> Value:
    """x rotated by sin and cos, which are reshaped to `spread`."""
    h = as_dtype(b, x, accumulation_dtype(x.type.dtype))
    sin, cos = (b.reshape(table, shape=spread) for table in tables)
    if not interleaved:
        return as_dtype(b, b.turn(h, sin, cos), x.type.dtype)
    pairs = b.reshape(h, shape=(*x.type.shape[:-1], _half(x), 2))  # each pair on its own axis
    out = b.turn(pairs, *(b.reshape(table, shape=(*table.type.shape, 1)) for table in (sin, cos)))
    return as_dtype(b, b.reshape(out, shape=x.type.shape), x.type.dtype)


def _infer_turn(x: TensorType, sin: TensorType, cos: TensorType) -> TensorType:
    last = x.shape[-1] if x.rank else 1
    if isinstance(last, Dim) or last % 2 or not x.dtype.is_float:
        raise IRError(f"turn rotates pairs of the last axis, so it must be even, got {x}")
    pairs = x.with_shape((*x.shape[:-1], last // 2))
    if sin != cos or sin.dtype is not x.dtype or broadcast_shapes(pairs.shape, sin.shape) != pairs.shape:
        raise IRError(f"sin and cos must broadcast to {pairs}, got {sin} and {cos}")
    return x


def _ref_turn(x: Any, sin: Any, cos: Any) -> Any:
    first, second = np.split(x, 2, axis=-1)
    pairs = (first + 1j * second) * (cos + 1j * sin)
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def _decompose_turn(b: Builder, x: Value, sin: Value, cos: Value) -> Value:
    """[x1, x2] -> [x1 cos - x2 sin, x2 cos + x1 sin], the halves of the last axis"""
    half = _half(x)
    x1, x2 = b.results("split", x, axis=-1, sizes=(half, half))
    first = b.sub(b.mul(x1, cos), b.mul(x2, sin))
    second = b.add(b.mul(x2, cos), b.mul(x1, sin))
    return b.concat(first, second, axis=-1)


turn = define_op(
    OpDef(
        "turn",
        ("x", "sin", "cos"),
        infer=_infer_turn,
        ref=_ref_turn,
        cost=elementwise(3),
        samples=(
            sample("f32[2, 3, 5, 8]", "f32[5, 4]", "f32[5, 4]"),
            sample("f32[2, 3, 4]", "f32[2, 1, 2]", "f32[2, 1, 2]"),
            sample("f32[3, 2]", "f32[3, 1]", "f32[3, 1]"),
        ),
        decompose=_decompose_turn,
        axes=Axes.ALIGNED,
        doc="the halves of the last axis as complex numbers, rotated by the angle with this sin and cos",
    )
)


rope = define_op(
    OpDef(
        "rope",
        ("x",),
        infer=_infer_rope,
        ref=ref_rope,
        cost=elementwise(6),
        samples=(
            sample("f32[2, 5, 8]", axis=1),
            sample("f32[2, 5, 4, 8]", axis=1),
            sample("f32[3, 4]", axis=0),
            sample("f32[2, 5, 3, 8]", axis=1, interleaved=True),
            sample("f32[2, 5, 3, 8]", axis=1, dims=4, interleaved=True),
            sample("f32[2, 5, 3, 8]", axis=1, dims=4),
            sample("f32[2, 5, 7]", axis=1, dims=4, interleaved=True),
        ),
        attrs={
            "axis": integer(1, least=0, doc="the axis of positions"),
            "dims": integer(None, least=2, doc="rotate the first `dims` elements of the last axis; all if none"),
            "interleaved": flag(
                False, doc="pairs are neighbours, (0, 1), (2, 3), .., instead of one element of each half"
            ),
        },
        decompose=_decompose_rope,
        stream=StreamingRule(_step_rope),
        doc="rotary position embedding in halves",
        source="Code 3",
    )
)


def _infer_bias(w: TensorType, n: Size) -> TensorType:
    if w.rank != 1 or (isinstance(w.shape[0], int) and w.shape[0] % 2 == 0):
        raise IRError(f"the weights must have shape [2 * span - 1], got {w}")
    if isinstance(n, int) and isinstance(w.shape[0], int) and 2 * n - 1 > w.shape[0]:
        raise IRError(f"a bias of {n} positions needs at least {2 * n - 1} weights, got {w}")
    return w.with_shape((n, n))


def ref_bias(w: Any, n: int) -> Any:
    """`rel_pos_bias` in numpy."""
    if 2 * n - 1 > len(w):
        raise InputError(f"a length of {n} exceeds the {(len(w) + 1) // 2} positions that the relative bias spans")
    position = np.arange(n)
    return w[position[None, :] - position[:, None] + (len(w) - 1) // 2]


def _decompose_bias(b: Builder, w: Value, n: Size) -> Value:
    """bias[i, j] = w[j - i + middle]"""
    position = b.iota(length=n)
    span = w.type.shape[0]
    middle = (span - 1) // 2 if isinstance(span, int) else (n - 1)
    distance = b.sub(b.reshape(position, shape=(1, n)), b.reshape(position, shape=(n, 1)))
    return b.gather(w, b.add(distance, b.size(value=middle)))


def _step_bias(now: DecodeContext, states: States, w: Value, n: Size) -> tuple[Value, States]:
    """The weights from the middle back. Distances beyond the span get the last weight; they are masked."""
    span = w.type.shape[0]
    assert isinstance(span, int)
    middle = (span - 1) // 2

    def near(count: int) -> Value:
        b = now.b
        return b.gather(w, b.maximum(b.sub(b.constant(middle, DType.I32), b.iota(length=count)), 0))

    return by_distance(now, near), {}


rel_pos_bias = define_op(
    OpDef(
        "rel_pos_bias",
        ("w",),
        infer=_infer_bias,
        ref=ref_bias,
        cost=copied,
        samples=(sample("f32[9]", n=5), sample("f32[9]", n=3)),
        attrs={"n": size(doc="positions")},
        decompose=_decompose_bias,
        stream=StreamingRule(_step_bias),
        doc="bias[i, j] = w[j - i + middle]",
        source="Code 4, the short form",
    )
)


def _infer_rope_bias(a: TensorType, b: TensorType, n: Size) -> TensorType:
    if a != b or a.rank != 1 or isinstance(a.shape[0], Dim) or a.shape[0] % 2:
        raise IRError(f"a and b must be vectors of one even size, got {a} and {b}")
    return a.with_shape((n, n))


def ref_rope_bias(a: Any, b: Any, n: int) -> Any:
    """`rope_rel_pos_bias` in numpy, by all n^2 products of the rotated vectors."""
    return ref_rope(np.tile(a, (n, 1)), 0) @ ref_rope(np.tile(b, (n, 1)), 0).T


def _decompose_rope_bias(builder: Builder, a: Value, b: Value, n: Size) -> Value:
    """Rotate both vectors by every position, and take all products."""
    turned_a, turned_b = (builder.rope(builder.broadcast(x, shape=(n, *x.type.shape)), axis=0) for x in (a, b))
    return builder.matmul(turned_a, turned_b, transpose_y=True)


def _step_rope_bias(now: DecodeContext, states: States, x: Value, y: Value, n: Size) -> tuple[Value, States]:
    """Only the distance matters, so the last row of the bias holds the weights, the farthest first."""

    def near(count: int) -> Value:
        b = now.b
        turned_x, turned_y = (b.rope(b.broadcast(v, shape=(count, *v.type.shape)), axis=0) for v in (x, y))
        last = b.slice(turned_x, axis=0, start=count - 1, stop=count)
        return b.reverse(b.reshape(b.matmul(last, turned_y, transpose_y=True), shape=(count,)), axis=0)

    return by_distance(now, near), {}


def _cost_rope_bias(ins: Types, outs: Types, n: int) -> Cost:
    traffic = moved(ins, outs)
    width = ins[0].count if ins[0] is not None else 0
    return Cost(12.0 * n * width, traffic.read, traffic.written, contractions=(Contraction(1, n, width, n),))


rope_rel_pos_bias = define_op(
    OpDef(
        "rope_rel_pos_bias",
        ("a", "b"),
        infer=_infer_rope_bias,
        ref=ref_rope_bias,
        cost=_cost_rope_bias,
        samples=(sample("f32[8]", "f32[8]", n=5),),
        attrs={"n": size(doc="positions")},
        decompose=_decompose_rope_bias,
        stream=StreamingRule(_step_rope_bias),
        doc="bias[i, j] = <rope(a, i), rope(b, j)>",
        source="Code 4, the long form",
    )
)
