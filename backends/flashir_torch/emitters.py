"""The table of emitters, one per supported op.

An emitter takes the scope, the node and its emitted operands, and returns the fx node of its result, or a tuple of
them. Constants are Python numbers for the ops in `NUMBERS`, and tensors for all others.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.nn import functional

from flashir.ir import DType, Node, TensorType
from flashir.ops.primitive.elementwise import least_logged
from flashir_torch.functions import relative_bias, turned
from flashir_torch.kernels.claims import need_triton
from flashir_torch.reuse import PRODUCT
from flashir_torch.scope import Made, Scope
from flashir_torch.types import TYPES, number

Emitter = Callable[..., "Made | tuple[Made, ...]"]


def _whole(scope: Scope, view: fx.Node) -> fx.Node:
    """The view itself; in an export, a contiguous copy.

    In an export, `reshape` and `matmul` would decide by sizes and strides whether to copy, and fix the decision.
    """
    if not scope.exporting:
        return view
    return scope.method("clone", view, memory_format=torch.contiguous_format, stem="whole")


def _as(function: Callable[..., Any], **fixed: Any) -> Emitter:
    """An emitter for a PyTorch function with the same operands."""
    return lambda scope, node, *operands: scope.call(function, *operands, **fixed)


def _type(node: Node, operand: int = 0) -> TensorType:
    return node.operands[operand].type


def _attr(node: Node, name: str) -> Any:
    return node.attrs[name]


def _bound(kind: str, function: Callable[..., Any]) -> Emitter:
    """`maximum` or `minimum`; of a tensor and a number, a clamp."""

    def emit(scope: Scope, node: Node, x: Made, y: Made) -> fx.Node:
        if isinstance(x, fx.Node) and isinstance(y, fx.Node):
            return scope.call(function, x, y)
        x, y = (x, y) if isinstance(x, fx.Node) else (y, x)
        return scope.method("clamp", x, min=y) if kind == "min" else scope.method("clamp", x, max=y)

    return emit


def _sqrt(scope: Scope, node: Node, x: fx.Node) -> fx.Node:
    return scope.call(torch.sqrt, scope.method("clamp", x, min=0, stem="positive"))


def _log(scope: Scope, node: Node, x: fx.Node) -> fx.Node:
    return scope.call(torch.log, scope.method("clamp", x, min=least_logged(_type(node).dtype), stem="positive"))


def _floor_div(scope: Scope, node: Node, x: fx.Node) -> fx.Node:
    return scope.call(torch.floor_divide, x, _attr(node, "divisor"))


def _cast(scope: Scope, node: Node, x: fx.Node) -> fx.Node:
    return scope.method("to", x, TYPES[_attr(node, "dtype")])


def _constant(scope: Scope, node: Node) -> Made:
    return number(_attr(node, "value"), _attr(node, "dtype"))


def _size(scope: Scope, node: Node) -> fx.Node:
    return scope.full((), scope.size(_attr(node, "value")), _attr(node, "dtype"))


def _iota(scope: Scope, node: Node) -> fx.Node:
    return scope.call(torch.arange, scope.size(_attr(node, "length")), **scope.like(_attr(node, "dtype")))


def _reshape(scope: Scope, node: Node, x: fx.Node) -> fx.Node:
    """Use `squeeze`, `unsqueeze` and `unflatten` if possible, which are always views, unlike `reshape`.

    Exports need no guards for views, and a view that is not possible fails instead of copying.
    """
    before, after = list(_type(node).shape), list(_attr(node, "shape"))
    units = tuple(axis for axis, size in enumerate(before) if size == 1)
    if units and len(units) < len(before) and 1 not in after:
        before = [size for size in before if size != 1]
        x = scope.method("squeeze", x, units, stem="" if before == after else "squeezed")
    if before == after:
        return x
    start = next((i for i, pair in enumerate(zip(before, after)) if pair[0] != pair[1]), min(len(before), len(after)))
    tail = len(before) - start - 1  # axes after the one that is split
    if [size for size in after if size != 1] == before and after.count(1) == 1:
        return scope.method("unsqueeze", x, after.index(1))
    pieces = after[start : len(after) - tail]
    if 0 <= tail <= len(after) - start - 2 and prod(pieces, start=1) == before[start]:
        return scope.method("unflatten", x, start, scope.shape(pieces))
    return scope.method("reshape", _copied(scope, x), scope.shape(after))


def _copied(scope: Scope, x: fx.Node) -> fx.Node:
    """The tensor whose axes may be joined: in an export, a copy of a part of `split`."""
    return _whole(scope, x) if _is_part(x) else x


def _is_part(x: fx.Node) -> bool:
    """Whether this is a view of a result of `split`."""
    while x.target in ("squeeze", "unsqueeze", "unflatten") and isinstance(x.args[0], fx.Node):
        x = x.args[0]
    return x.target is operator.getitem and isinstance(x.args[0], fx.Node) and x.args[0].target == "split"


def _transpose(scope: Scope, node: Node, x: fx.Node) -> fx.Node:
    return _whole(scope, scope.method("permute", x, _attr(node, "perm")))


def _broadcast(scope: Scope, node: Node, x: Made) -> fx.Node:
    if not isinstance(x, fx.Node):
        return scope.full(_attr(node, "shape"), x, node.output.type.dtype)
    return scope.method("expand", x, scope.shape(_attr(node, "shape")))


def _pads(type_: TensorType, axis: int, before: Any, after: Any) -> list[Any]:
    """The arguments of `constant_pad_nd`: pairs from the last axis on."""
    return [0, 0] * (type_.rank - 1 - axis % type_.rank) + [before, after]


def _pad(scope: Scope, node: Node, x: fx.Node) -> fx.Node:
    pads = _pads(_type(node), *(_attr(node, "axis"), *scope.shape((_attr(node, "before"), _attr(node, "after")))))
    return scope.call(torch.constant_pad_nd, x, pads, number(_attr(node, "value"), _type(node).dtype))


def _slice(scope: Scope, node: Node, x: fx.Node) -> fx.Node:
    """Bounds are clamped as in NumPy: 1 to T of an empty sequence is empty."""
    axis, start, stop = (_attr(node, name) for name in ("axis", "start", "stop"))
    if start == 0:
        return _whole(scope, scope.method("narrow", x, axis, 0, scope.size(stop)))
    index = (slice(None),) * (axis % _type(node).rank) + (slice(scope.size(start), scope.size(stop)),)
    return _whole(scope, scope.call(operator.getitem, x, index))


def _split(scope: Scope, node: Node, x: fx.Node) -> tuple[fx.Node, ...]:
    """Parts along the last axis stay views even in exports: they are the widest, and products read them in place."""
    sizes, axis = list(scope.shape(_attr(node, "sizes"))), _attr(node, "axis") % _type(node).rank
    whole = scope.method("split", x, sizes, dim=axis, stem="split")
    parts = (scope.call(operator.getitem, whole, i, stem=value.name) for i, value in enumerate(node.outputs))
    return tuple(parts if axis == _type(node).rank - 1 else (_whole(scope, part) for part in parts))


def _concat(scope: Scope, node: Node, *xs: fx.Node) -> fx.Node:
    return scope.call(torch.cat, xs, dim=_attr(node, "axis"))


def _reverse(scope: Scope, node: Node, x: fx.Node) -> fx.Node:
    return scope.method("flip", x, _attr(node, "axis"))


def _gather(scope: Scope, node: Node, table: fx.Node, ids: fx.Node) -> fx.Node:
    """The gradients of `embedding` and `index_select` sum rows without sorting."""
    if _type(node).rank == 2:
        return scope.call(functional.embedding, ids, table)
    flat = scope.method("flatten", ids, stem="ids")
    picked = scope.method("index_select", table, 0, flat, stem="picked")
    return scope.method("view", picked, scope.shape(node.output.type.shape))


def _put_rows(scope: Scope, node: Node, table: fx.Node, rows: fx.Node, ids: fx.Node) -> fx.Node:
    batch, *between, count, _ = _type(node, 1).shape
    places = scope.method("view", ids, scope.shape((batch, *(1 for _ in between), count, 1)))
    return scope.call(torch.scatter, table, -2, scope.method("expand_as", places, rows), rows)


def _matmul(scope: Scope, node: Node, x: fx.Node, y: fx.Node) -> fx.Node:
    """Transposes are views, which the product reads in place. Two batches of matrices use `bmm`.

    Exports always use `bmm`, since `matmul` decides by sizes and strides what to copy, and fixes the decision.
    """
    left, right = _type(node, 0), _type(node, 1)
    flat = scope.exporting and left.rank == right.rank == 4 and left.shape[:2] == right.shape[:2]
    if flat:
        x, y = (scope.method("flatten", _copied(scope, operand), 0, 1, stem="matrices") for operand in (x, y))
    if _attr(node, "transpose_x"):
        x = scope.method("transpose", x, -1, -2, stem="transposed")
    if _attr(node, "transpose_y"):
        y = scope.method("transpose", y, -1, -2, stem="transposed")
    if right.rank == 3 and left.rank == 2:
        x = scope.method("expand", x, (scope.size(right.shape[0]), -1, -1), stem="expanded")
    batched = right.rank == 3 and (left.rank == 2 or left.shape[:1] == right.shape[:1])
    if flat:
        product = scope.call(torch.bmm, x, y, stem="product")
        return scope.method("unflatten", product, 0, scope.shape(left.shape[:2]))
    result = scope.call(torch.bmm if batched else operator.matmul, x, y)
    if right.rank > 2:
        result.meta[PRODUCT] = True
    return result


def _dense(scope: Scope, node: Node, x: fx.Node, weight: fx.Node, bias: fx.Node) -> fx.Node:
    """`linear` takes [out, in]: a view, which it reads in place."""
    return scope.call(functional.linear, x, scope.method("t", weight, stem="weight"), bias)


def _offset_scale(scope: Scope, node: Node, z: fx.Node, gamma: fx.Node, beta: fx.Node) -> fx.Node:
    """[b, 1, t, s] * [h, 1, s] + [h, 1, s] in one pass."""
    heads = scope.method("unsqueeze", z, 1, stem="z")
    gamma, beta = (scope.method("unsqueeze", x, 1, stem=name) for x, name in ((gamma, "gamma"), (beta, "beta")))
    return scope.call(torch.addcmul, beta, heads, gamma)


def _relu2(scope: Scope, node: Node, x: fx.Node) -> fx.Node:
    return scope.call(torch.square, scope.call(torch.relu, x, stem="relu"))


def _layer_normalization(scope: Scope, node: Node, x: fx.Node, scale: fx.Node, bias: fx.Node) -> fx.Node:
    width = scope.shape(_type(node).shape[-1:])
    return scope.call(functional.layer_norm, x, width, scale, bias, eps=_attr(node, "eps"))


def _conv(scope: Scope, node: Node, x: fx.Node, weight: fx.Node) -> fx.Node:
    """PyTorch has channels before tokens, and rejects empty results: a result that may be empty gets one more token."""
    length, (before, after) = node.output.type.shape[1], _attr(node, "pads")
    certain = isinstance(length, int) and length > 0
    channels = scope.method("transpose", x, 1, 2, stem="channels")
    same = certain and before == after
    if not same:
        pads = [before, after if certain else after + _attr(node, "stride")]
        channels = scope.call(torch.constant_pad_nd, channels, pads, stem="padded")
    kernel = scope.method("permute", weight, (2, 1, 0), stem="kernel")
    how = {"stride": _attr(node, "stride"), "dilation": _attr(node, "dilation"), "groups": _attr(node, "groups")}
    conv = scope.call(functional.conv1d, channels, kernel, padding=before if same else 0, **how)
    if not certain:
        conv = scope.method("narrow", conv, 2, 0, scope.size(length), stem="cut")
    return _whole(scope, scope.method("transpose", conv, 1, 2))


def _conv_transpose(scope: Scope, node: Node, x: fx.Node, weight: fx.Node) -> fx.Node:
    """Append a token of zeros, since PyTorch rejects empty inputs."""
    channels = scope.method("transpose", x, 1, 2, stem="channels")
    padded = scope.call(torch.constant_pad_nd, channels, [0, 1], stem="padded")
    kernel = scope.method("permute", weight, (1, 2, 0), stem="kernel")
    conv = scope.call(functional.conv_transpose1d, padded, kernel, stride=_attr(node, "stride"), stem="longer")
    cut = scope.method("narrow", conv, 2, _attr(node, "pads")[0], scope.size(node.output.type.shape[1]), stem="cut")
    return _whole(scope, scope.method("transpose", cut, 1, 2))


def _turn(scope: Scope, node: Node, x: fx.Node, sin: fx.Node, cos: fx.Node) -> fx.Node:
    return scope.call(turned, x, sin, cos)


def _rel_pos_bias(scope: Scope, node: Node, w: fx.Node) -> fx.Node:
    return scope.call(relative_bias, w, _attr(node, "n"))


def _softmax_attention(scope: Scope, node: Node, q: fx.Node, k: fx.Node, v: fx.Node) -> fx.Node:
    causal, scale = _attr(node, "causal"), float(_attr(node, "scale"))
    return scope.call(functional.scaled_dot_product_attention, q, k, v, is_causal=causal, scale=scale)


def _chunked_recurrence(scope: Scope, node: Node, v: fx.Node, *operands: fx.Node) -> fx.Node:
    """Mixed chunk attention, the case with a kernel."""
    need_triton()
    from flashir_torch.kernels.mixed import mixed_chunk_attention

    quad_q, quad_k, bias, lin_q, lin_k = operands
    settings = (_attr(node, name) for name in ("chunk", "causal", "lin_norm"))
    return scope.call(mixed_chunk_attention, quad_q, quad_k, lin_q, lin_k, v, bias, *settings)


def _gated_mixed_attention(scope: Scope, node: Node, *operands: fx.Node) -> fx.Node:
    need_triton()
    from flashir_torch.kernels.gated import gated_mixed_attention

    settings = (_attr(node, "chunk"), _attr(node, "lin_norm"), float(_attr(node, "scale")))
    return scope.call(gated_mixed_attention, *operands, *settings)


def _cumsum(scope: Scope, node: Node, x: fx.Node) -> fx.Node:
    """An exclusive sum shifts its operand by one; subtracting the element would round, and depend on it."""
    type_, axis = _type(node), _attr(node, "axis")
    if _attr(node, "exclusive"):
        moved = scope.call(torch.constant_pad_nd, x, _pads(type_, axis, 1, 0), stem="moved")
        x = scope.method("narrow", moved, axis, 0, scope.size(type_.shape[axis]), stem="before")
    if type_.dtype not in (DType.F16, DType.BF16):
        return scope.call(torch.cumsum, x, dim=axis, dtype=TYPES[type_.dtype])
    total = scope.call(torch.cumsum, x, dim=axis, dtype=torch.float32, stem="total")
    return scope.method("to", total, TYPES[type_.dtype])


def _reduce(function: Callable[..., Any]) -> Emitter:
    """A sum or mean that keeps the dtype. Without axes it returns the operand, where PyTorch would reduce all axes."""

    def emit(scope: Scope, node: Node, x: fx.Node) -> fx.Node:
        if not _attr(node, "axes"):
            return x
        type_, axes, keep = TYPES[_type(node).dtype], _attr(node, "axes"), _attr(node, "keepdims")
        if type_.is_floating_point:
            return scope.call(function, x, dim=axes, keepdim=keep)
        return scope.call(function, x, dim=axes, keepdim=keep, dtype=type_)

    return emit


def _extreme(function: Callable[..., Any], bound: str) -> Emitter:
    """A maximum or minimum; of no elements, the limit of the dtype, which is concatenated to a possibly empty axis."""

    def emit(scope: Scope, node: Node, x: fx.Node) -> fx.Node:
        type_ = _type(node)
        if not _attr(node, "axes"):
            return x
        infinite = {"min": -np.inf, "max": np.inf}[bound]
        end = infinite if type_.dtype.is_float else getattr(torch.iinfo(TYPES[type_.dtype]), bound)
        for axis in _attr(node, "axes"):
            size = type_.shape[axis]
            if not isinstance(size, int) or not size:
                x = scope.call(torch.constant_pad_nd, x, _pads(type_, axis, 0, 1), end, stem="padded")
        return scope.call(function, x, dim=_attr(node, "axes"), keepdim=_attr(node, "keepdims"))

    return emit


NUMBERS = frozenset(("add", "sub", "mul", "div", "maximum", "minimum", "less", "less_equal", "select", "broadcast"))
"""The ops whose emitters take a constant as a number, if another operand is a tensor."""

EMITTERS: dict[str, Emitter] = {
    "add": _as(operator.add), "sub": _as(operator.sub), "mul": _as(operator.mul), "div": _as(operator.truediv),
    "neg": _as(operator.neg), "exp": _as(torch.exp), "sin": _as(torch.sin), "cos": _as(torch.cos),
    "tanh": _as(torch.tanh), "erf": _as(torch.erf), "relu": _as(torch.relu), "relu2": _relu2,
    "sigmoid": _as(torch.sigmoid), "silu": _as(functional.silu), "sqrt": _sqrt, "reciprocal": _as(torch.reciprocal),
    "maximum": _bound("min", torch.maximum), "minimum": _bound("max", torch.minimum), "less": _as(operator.lt),
    "less_equal": _as(operator.le), "logical_and": _as(torch.logical_and), "select": _as(torch.where), "cast": _cast,
    "constant": _constant, "size": _size, "iota": _iota, "reshape": _reshape, "transpose": _transpose,
    "broadcast": _broadcast, "pad": _pad, "slice": _slice, "split": _split, "concat": _concat, "reverse": _reverse,
    "put_rows": _put_rows, "log": _log,
    "gather": _gather, "matmul": _matmul, "dense": _dense, "offset_scale": _offset_scale, "cumsum": _cumsum,
    "floor_div": _floor_div, "gelu": _as(functional.gelu, approximate="tanh"), "softmax": _as(torch.softmax, dim=-1),
    "softmax_attention": _softmax_attention, "layer_normalization": _layer_normalization,
    "turn": _turn, "conv1d": _conv, "conv_transpose1d": _conv_transpose,
    "chunked_recurrence": _chunked_recurrence, "gated_mixed_attention": _gated_mixed_attention,
    "rel_pos_bias": _rel_pos_bias,
    "reduce_sum": _reduce(torch.sum), "reduce_mean": _reduce(torch.mean),
    "reduce_max": _extreme(torch.amax, "min"), "reduce_min": _extreme(torch.amin, "max"),
}  # fmt: skip
