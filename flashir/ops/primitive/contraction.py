"""Contractions (matmul, einsum) and reductions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import Contraction, Cost, Types, matrix_product, moved, per_input
from flashir.ir.dims import Size
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, define_op, flag, listing, sample, text
from flashir.ir.traits import (
    Axes,
    GradientRule,
    GrowthRule,
    grows_by_axes,
    grows_by_contraction,
    reads_nothing,
    reads_operands,
    reads_other_side,
)
from flashir.ir.types import DType, Shape, TensorType, broadcast_shapes
from flashir.ops.primitive.elementwise import floating
from flashir.ops.primitive.shape import axis_of


def _swapped(shape: Shape, swap: bool) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2]) if swap else shape


def _infer_matmul(x: TensorType, y: TensorType, transpose_x: bool, transpose_y: bool) -> TensorType:
    if x.rank < 2 or y.rank < 2:
        raise IRError(f"operands must have at least two axes, got {x} and {y}")
    if x.dtype is not y.dtype:
        raise IRError(f"operands must have one element type, got {x} and {y}")
    left, right = _swapped(x.shape, transpose_x), _swapped(y.shape, transpose_y)
    if left[-1] != right[-2]:
        raise IRError(f"the contracted sizes must be equal, got {left[-1]} and {right[-2]} in {x} and {y}")
    return x.with_shape((*broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1]))


def _ref_matmul(x: Any, y: Any, transpose_x: bool, transpose_y: bool) -> Any:
    return (x.swapaxes(-1, -2) if transpose_x else x) @ (y.swapaxes(-1, -2) if transpose_y else y)


def _cost_matmul(ins: Types, outs: Types, transpose_x: bool, **_: Any) -> Cost:
    x, y, out = ins[0], ins[1], outs[0]
    assert x is not None and y is not None and out is not None
    k = x.sizes[-2] if transpose_x else x.sizes[-1]
    traffic = moved(ins, outs)
    return Cost(read=traffic.read, written=traffic.written, contractions=(matrix_product(x, y, out, k),))


matmul = define_op(
    OpDef(
        "matmul",
        ("x", "y"),
        infer=_infer_matmul,
        ref=_ref_matmul,
        cost=_cost_matmul,
        samples=(
            sample("f32[2, 3, 4]", "f32[4, 5]"),
            sample("f32[2, 4, 3]", "f32[2, 5, 4]", transpose_x=True, transpose_y=True),
            sample("f32[0, 3, 4]", "f32[0, 4, 2]"),
        ),
        attrs={"transpose_x": flag(False), "transpose_y": flag(False)},
        axes=Axes.MATMUL,
        growth=grows_by_contraction,
        gradient=reads_other_side,
        doc="[.., m, k] x [.., k, n] -> [.., m, n]; either operand may be transposed",
    )
)


def _infer_dense(x: TensorType, weight: TensorType, bias: TensorType) -> TensorType:
    if weight.rank != 2 or bias.shape != weight.shape[1:] or len({x.dtype, weight.dtype, bias.dtype}) > 1:
        raise IRError(f"weight must be [k, n] and bias [n], of the operand's element type, got {x}, {weight}, {bias}")
    return _infer_matmul(x, weight, False, False)


def _cost_dense(ins: Types, outs: Types) -> Cost:
    out = outs[0]
    assert out is not None
    return replace(_cost_matmul(ins[:2], outs, False), flops=float(out.count))


dense = define_op(
    OpDef(
        "dense",
        ("x", "weight", "bias"),
        infer=_infer_dense,
        ref=lambda x, w, c: np.einsum("...k,kn->...n", x, w) + c,
        cost=_cost_dense,
        samples=(sample("f32[2, 3, 4]", "f32[4, 5]", "f32[5]"), sample("f32[3, 4]", "f32[4, 2]", "f32[2]")),
        decompose=lambda b, x, weight, bias: b.add(b.matmul(x, weight), bias),
        axes=Axes.LAST,
        doc="x W + b, [.., k] -> [.., n]",
    )
)


def einsum_letters(equation: str, types: Sequence[TensorType]) -> tuple[list[str], str, dict[str, Size]]:
    """The letters of each operand and of the result, and their sizes. Raises IRError if they do not fit."""
    sides = equation.replace(" ", "").split("->")
    if len(sides) != 2:
        raise IRError(f"an equation must look like 'bns,bms->bnm', got {equation!r}")
    terms, out = sides[0].split(","), sides[1]
    if len(terms) != len(types):
        raise IRError(f"{equation!r} takes {len(terms)} operands, got {len(types)}")
    sizes: dict[str, Size] = {}
    for term, type_ in zip(terms, types, strict=True):
        if len(term) != type_.rank or len(set(term)) != len(term) or not term.isalpha():
            raise IRError(f"{term!r} must name each axis of {type_} once")
        for letter, length in zip(term, type_.shape, strict=True):
            if sizes.setdefault(letter, length) != length:
                raise IRError(f"axis {letter!r} of {equation!r} is both {sizes[letter]} and {length}")
    if len(set(out)) != len(out) or not set(out) <= set(sizes):
        raise IRError(f"the result {out!r} of {equation!r} must name axes of the operands, each once")
    return terms, out, sizes


def _infer_einsum(x: TensorType, y: TensorType, equation: str) -> TensorType:
    if x.dtype is not y.dtype:
        raise IRError(f"operands must have one element type, got {x} and {y}")
    _, out, sizes = einsum_letters(equation, (x, y))
    return x.with_shape(tuple(sizes[letter] for letter in out))


def _cost_einsum(ins: Types, outs: Types, equation: str) -> Cost:
    present = [t for t in ins if t is not None]
    (x, y), out, sizes = einsum_letters(equation, present)

    def count(letters: str) -> int:
        return prod(n for n in (sizes[letter] for letter in letters) if isinstance(n, int))

    both, in_result = set(x) & set(y), set(out)
    batch, k = "".join(both & in_result), "".join(both - in_result)
    m, n = "".join((set(x) - both) & in_result), "".join((set(y) - both) & in_result)
    summed = sum(t.count for t, term, other in zip(present, (x, y), (y, x)) if set(term) - set(other) - in_result)
    traffic = moved(ins, outs)
    product = Contraction(count(batch), count(m), count(k), count(n))
    return Cost(float(summed), traffic.read, traffic.written, contractions=(product,))


def _grouped(b: Builder, x: Value, term: str, groups: Sequence[str]) -> Value:
    """Transpose and reshape x to one axis per group of letters."""
    order = "".join(groups)
    if order != term:
        x = b.transpose(x, perm=tuple(term.index(letter) for letter in order))
    if any(len(group) != 1 for group in groups):
        sizes = dict(zip(order, x.type.shape, strict=True))
        x = b.reshape(x, shape=tuple(_product(sizes, group) for group in groups))
    return x


def _product(sizes: dict[str, Size], letters: str) -> Size:
    total: Size = 1
    for letter in letters:
        total = total * sizes[letter]
    return total


def _decompose_einsum(b: Builder, x: Value, y: Value, equation: str) -> Value:
    """Sum over axes of one operand alone, multiply [batch, m, k] x [batch, k, n], and transpose to the result."""
    (left, right), out, sizes = einsum_letters(equation, (x.type, y.type))
    x, left = _sum_out(b, x, left, set(right) | set(out))
    y, right = _sum_out(b, y, right, set(left) | set(out))
    batch = "".join(c for c in out if c in left and c in right)
    m = "".join(c for c in out if c in left and c not in right)
    n = "".join(c for c in out if c in right and c not in left)
    k = "".join(c for c in left if c in right and c not in out)
    if len(left) == len(batch) + 2 and left[-2:] == k + m:  # matmul reads it transposed, without a copy
        xs, transpose_x = _grouped(b, x, left, (*batch, k, m)), True
    else:
        xs, transpose_x = _grouped(b, x, left, (*batch, m, k)), False
    if len(right) == len(batch) + 2 and right[-2:] == n + k:
        ys, transpose_y = _grouped(b, y, right, (*batch, n, k)), True
    else:
        ys, transpose_y = _grouped(b, y, right, (*batch, k, n)), False
    product = b.matmul(xs, ys, transpose_x=transpose_x, transpose_y=transpose_y)
    order = batch + m + n
    if len(m) != 1 or len(n) != 1:
        product = b.reshape(product, shape=tuple(sizes[letter] for letter in order))
    return b.transpose(product, perm=tuple(order.index(c) for c in out)) if order != out else product


def _sum_out(b: Builder, x: Value, term: str, needed: set[str]) -> tuple[Value, str]:
    lost = tuple(axis for axis, letter in enumerate(term) if letter not in needed)
    if not lost:
        return x, term
    return b.reduce_sum(x, axes=lost), "".join(letter for letter in term if letter in needed)


einsum = define_op(
    OpDef(
        "einsum",
        ("x", "y"),
        infer=_infer_einsum,
        ref=lambda x, y, equation: np.einsum(equation, x, y, optimize=True),
        cost=_cost_einsum,
        samples=(
            sample("f32[2, 3, 4, 5]", "f32[2, 3, 6, 5]", equation="bgns,bgms->bgnm"),
            sample("f32[2, 3, 4, 5]", "f32[2, 3, 4, 6]", equation="bgns,bgne->bgse"),
            sample("f32[2, 3, 4, 5]", "f32[2, 7, 3]", equation="bhse,bgh->bgse"),
            sample("f32[2, 3]", "f32[4]", equation="bn,e->bne"),
            sample("f32[2, 3]", "f32[3, 5]", equation="bn,ne->e"),
        ),
        attrs={"equation": text(doc="as in numpy, for two operands, without dots")},
        decompose=_decompose_einsum,
        doc="sums of products over the axes that the result does not name",
    )
)


def _infer_reduce(x: TensorType, axes: Sequence[int], keepdims: bool) -> TensorType:
    reduced = {axis_of(x, axis) for axis in axes}
    if len(reduced) != len(axes):
        raise IRError(f"axes must name each axis of {x} once, got {tuple(axes)}")
    if x.dtype is DType.BOOL:
        raise IRError(f"the operand must hold numbers, got {x}", hint="cast a bool first")
    return x.with_shape(tuple(1 if i in reduced else n for i, n in enumerate(x.shape) if keepdims or i not in reduced))


def _infer_mean(x: TensorType, axes: Sequence[int], keepdims: bool) -> TensorType:
    return floating(_infer_reduce(x, axes, keepdims))


def _reduction(
    name: str,
    function: Any,
    doc: str,
    *,
    gradient: GradientRule = reads_nothing,
    growth: GrowthRule | None = None,
    infer: Any = _infer_reduce,
    empty: bool = True,
) -> OpDef:
    cases = (sample("f32[2, 3, 4]", axes=(1, 2)), sample("f32[2, 3]", axes=(-1,), keepdims=True))
    return define_op(
        OpDef(
            name,
            ("x",),
            infer=infer,
            ref=lambda x, axes, keepdims: function(x, axis=axes, keepdims=keepdims),
            cost=per_input(1),
            samples=cases + ((sample("f32[0, 3]", axes=(0,)),) if empty else ()),
            attrs={"axes": listing(), "keepdims": flag(False)},
            axes=Axes.REDUCTION,
            gradient=gradient,
            growth=growth,
            doc=doc,
        )
    )


def _extreme(function: Any, bound: str) -> Callable[..., Any]:
    """`np.max` or `np.min`; over no elements it is the bound of the type, which is infinite for floats."""

    def reduce(x: Any, axis: Any, keepdims: bool) -> Any:
        first = getattr(np.iinfo(x.dtype), bound) if x.dtype.kind == "i" else {"min": -np.inf, "max": np.inf}[bound]
        return function(x, axis=axis, keepdims=keepdims, initial=first)

    return reduce


reduce_sum = _reduction("reduce_sum", np.sum, "the sum over some axes", growth=grows_by_axes)
reduce_mean = _reduction("reduce_mean", np.mean, "the mean over some axes", infer=_infer_mean, empty=False)
reduce_max = _reduction(
    "reduce_max", _extreme(np.max, "min"), "the largest over some axes; -inf over no elements", gradient=reads_operands
)
reduce_min = _reduction(
    "reduce_min", _extreme(np.min, "max"), "the smallest over some axes; inf over no elements", gradient=reads_operands
)
