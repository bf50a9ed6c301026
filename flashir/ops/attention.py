"""Attention between chunks: linear (Eq. 7, 8), and mixed with quadratic attention within them (Code 8).

Axes: b batch, t length, g chunks, n and m positions within a chunk, s key, e expanded.
Queries come scaled: the attention ops themselves scale nothing but the global part, by `lin_norm`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.dims import Size, ceildiv
from flashir.ir.graph import AUTO
from flashir.ir.types import DType, Shape, TensorType, shape_text
from flashir.ops.chunk_stream import mixed_after, mixed_step
from flashir.ops.costs import Contraction, Cost, Types, moved
from flashir.ops.norm import as_dtype, scaled, wide
from flashir.ops.opdef import OpDef, choice, define_op, flag, integer, sample
from flashir.ops.prefix import strictly_lower
from flashir.ops.quadratic import check_bias, check_heads
from flashir.ops.shape import pad_to_multiple
from flashir.ops.stream import Stream

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Value

LIN_NORM = choice(
    "none",
    "chunk",
    "chunk_mean",
    default="chunk_mean",
    doc="global part: plain sum (Eq. 8), divided by the chunk (none, chunk), averaged over visible chunks (Code 8)",
)
CUMSUM = choice("scan", "matmul", "native", default=AUTO, auto=True, doc="how chunk states are summed up")


def _infer_linear(
    q: TensorType,
    k: TensorType,
    v: TensorType,
    visible: TensorType | None = None,
    weights: TensorType | None = None,
    **_: Any,
) -> TensorType:
    check_heads(q, k, v)
    if q.rank != 4:
        raise IRError(f"q, k, v must be chunked, [b, g, n, s], got {q}")
    if visible is not None and (
        visible.shape != (q.shape[0], q.shape[1], q.shape[1]) or visible.dtype is not DType.BOOL
    ):
        raise IRError(f"visible must be bool of shape (b, g, g), got {visible}")
    if weights is not None and weights != TensorType(wide(v.dtype), (q.shape[0], q.shape[1], q.shape[1])):
        raise IRError(f"weights must be {wide(v.dtype)} of shape (b, g, g), got {weights}")
    return v


def _ref_linear(
    q: Any, k: Any, v: Any, visible: Any = None, weights: Any = None, *, causal: bool, cumsum: str, lin_norm: str
) -> Any:
    batch, chunks, n = q.shape[:3]
    mask = np.ones((batch, chunks, chunks)) if visible is None else visible.astype(np.float64)
    mask = np.tril(mask, -1) if causal else mask
    if lin_norm == "chunk_mean":
        mask = mask / np.maximum(mask.sum(-1, keepdims=True), 1)
    if weights is not None:
        mask = mask * weights
    state = np.einsum("bgh,bhse->bgse", mask, np.einsum("bgns,bgne->bgse", k, v))
    return np.einsum("bgns,bgse->bgne", q, state) / (1 if lin_norm == "none" else n)


def _decompose_linear(
    b: Builder,
    q: Value,
    k: Value,
    v: Value,
    visible: Value | None = None,
    weights: Value | None = None,
    *,
    causal: bool,
    cumsum: str,
    lin_norm: str,
) -> Value:
    """q (sum over visible chunks of k^T v), the norm spread over k (1 / n) and q (1 / number of chunks)"""
    chunks, n = q.type.shape[1:3]
    if lin_norm != "none":
        k = b.mul(k, 1.0 / _known(n))
    if visible is not None or weights is not None:
        return _masked(b, q, k, v, visible, weights, causal, lin_norm)
    if lin_norm == "chunk_mean" and causal:
        seen = b.maximum(b.iota(length=chunks, dtype=wide(q.type.dtype)), 1.0)
        q = scaled(b, q, b.reshape(b.reciprocal(seen), shape=(chunks, 1, 1)))
    if lin_norm == "chunk_mean" and not causal:
        count = b.maximum(b.size(value=chunks, dtype=wide(q.type.dtype)), 1.0)
        q = scaled(b, q, b.reciprocal(count))
    if not causal:
        return _sum_of_all(b, q, k, v)
    if cumsum == "scan":
        return _scanned(b, q, k, v)
    return b.matmul(q, as_dtype(b, b.prefix_sum(_states(b, k, v), cumsum=cumsum), q.type.dtype))


def _known(n: Size) -> int:
    if not isinstance(n, int):
        raise IRError(f"the chunk must be known, got {n}", mend="choose a chunk first")
    return n


def _states(b: Builder, k: Value, v: Value) -> Value:
    """[b, g, n, s], [b, g, n, e] -> the sum that each chunk adds, [b, g, s, e] in float32 at least"""
    return as_dtype(b, b.matmul(k, v, transpose_x=True), wide(v.type.dtype))


def _sum_of_all(b: Builder, q: Value, k: Value, v: Value) -> Value:
    """Not causal (Eq. 7): one product over all positions."""
    batch, chunks, n, s = q.type.shape
    e = v.type.shape[-1]
    total = b.matmul(
        b.reshape(k, shape=(batch, chunks * n, s)), b.reshape(v, shape=(batch, chunks * n, e)), transpose_x=True
    )
    return b.reshape(b.matmul(b.reshape(q, shape=(batch, chunks * n, s)), total), shape=v.type.shape)


def _masked(
    b: Builder, q: Value, k: Value, v: Value, visible: Value | None, weights: Value | None, causal: bool, lin_norm: str
) -> Value:
    """Segments (Code 7) and weights (Appendix A) force the masked form: mask[b, g, h] x states[b, h, s * e]"""
    batch, chunks, _, s = q.type.shape
    e, dtype = v.type.shape[-1], wide(v.type.dtype)
    whole = b.broadcast(b.constant(1.0, dtype), shape=(batch, chunks, chunks))
    mask = whole if visible is None else b.cast(visible, dtype=dtype)
    if causal:
        mask = b.mul(mask, strictly_lower(b, chunks, dtype))
    if lin_norm == "chunk_mean":
        mask = b.divide_no_nan(mask, b.reduce_sum(mask, axes=(-1,), keepdims=True))
    if weights is not None:
        mask = b.mul(mask, weights)
    states = b.reshape(_states(b, k, v), shape=(batch, chunks, s * e))
    summed = b.reshape(b.matmul(mask, states), shape=(batch, chunks, s, e))
    return b.matmul(q, as_dtype(b, summed, q.type.dtype))


def _scanned(b: Builder, q: Value, k: Value, v: Value) -> Value:
    """One loop over chunks that carries the s x e state and never stores them all."""
    batch, _, n, s = q.type.shape
    e, dtype = v.type.shape[-1], wide(v.type.dtype)
    zeros = b.broadcast(b.constant(0.0, dtype), shape=(batch, s, e))
    body = b.subgraph()
    state = body.input("state", zeros.type)
    q_g = body.input("q", q.type.with_shape((batch, n, s)))
    k_g = body.input("k", k.type.with_shape((batch, n, s)))
    v_g = body.input("v", v.type.with_shape((batch, n, e)))
    out = body.matmul(q_g, as_dtype(body, state, q.type.dtype))
    after = body.add(state, as_dtype(body, body.matmul(k_g, v_g, transpose_x=True), dtype))
    _, result = b.results("scan", zeros, q, k, v, carries=1, axis=1, body=body.finish(after, out))
    return result


def _cost_linear(ins: Types, outs: Types, causal: bool, cumsum: str, lin_norm: str) -> Cost:
    q, v = ins[0], ins[2]
    assert q is not None and v is not None
    batch, g, n, s = q.sizes
    e, traffic = v.sizes[-1], moved(ins, outs)
    products = (Contraction(batch * g, s, n, e), Contraction(batch * g, n, s, e))
    return Cost(float(batch * g * s * e), traffic.read, traffic.written, g if cumsum == "scan" else 1, products)


linear_attention = define_op(
    OpDef(
        "linear_attention",
        ("q", "k", "v", "visible?", "weights?"),
        _infer_linear,
        _ref_linear,
        _cost_linear,
        tuple(
            sample(
                "f32[2, 5, 3, 4]",
                "f32[2, 5, 3, 4]",
                "f32[2, 5, 3, 6]",
                *mask,
                causal=causal,
                cumsum=kind,
                lin_norm=norm,
            )
            for causal in (True, False)
            for norm in ("none", "chunk", "chunk_mean")
            for kind, mask in (("scan", ()), ("matmul", ()), ("native", ()), ("matmul", ("bool[2, 5, 5]",)))
        )
        + tuple(
            sample(
                "f32[2, 5, 3, 4]",
                "f32[2, 5, 3, 4]",
                "f32[2, 5, 3, 6]",
                mask,
                "f32[2, 5, 5]",
                causal=causal,
                cumsum="matmul",
            )
            for causal in (True, False)
            for mask in (None, "bool[2, 5, 5]")
        ),
        attrs={"causal": flag(), "cumsum": CUMSUM, "lin_norm": LIN_NORM},
        decompose=_decompose_linear,
        doc="attention between chunks: q (sum of k^T v over the visible chunks), chunks strictly before where causal",
    )
)


def _infer_mixed(
    quad_q: TensorType,
    quad_k: TensorType,
    lin_q: TensorType,
    lin_k: TensorType,
    v: TensorType,
    bias: TensorType,
    segment_ids: TensorType | None = None,
    *,
    chunk: int,
    **_: Any,
) -> TensorType:
    check_heads(quad_q, quad_k, v)
    check_heads(lin_q, lin_k, v)
    if v.rank != 3:
        raise IRError(f"queries, keys and v must be [b, t, *], got {v}")
    check_bias(bias, v, chunk, chunk)
    if segment_ids is not None:  # rows that pad v have none
        check_segments(segment_ids, (v.shape[0], *segment_ids.shape[1:2]))
    return v


def check_segments(segment_ids: TensorType, shape: Shape) -> None:
    """Raises IRError unless there is one whole number for each token."""
    if segment_ids.dtype not in (DType.I32, DType.I64) or segment_ids.shape != shape or len(shape) != 2:
        raise IRError(f"segment_ids must be whole numbers of shape {shape_text(shape)}, got {segment_ids}")


def ref_mixed(
    quad_q: Any,
    quad_k: Any,
    lin_q: Any,
    lin_k: Any,
    v: Any,
    bias: Any,
    segment_ids: Any = None,
    *,
    chunk: int,
    causal: bool,
    cumsum: str,
    lin_norm: str,
    overlap: bool = False,
    chunk_weights: Any = None,
) -> Any:
    """Chunk by chunk, as the paper tells it: no padding, the last chunk is simply shorter.

    With `overlap` a chunk also sees the one before, and the bias is [2 chunk, 2 chunk], its own positions the last;
    `chunk_weights` [b, g, h] weigh the states.
    """
    batch, length = v.shape[:2]
    spans = [slice(start, min(start + chunk, length)) for start in range(0, length, chunk)]
    states = np.array([np.einsum("bns,bne->bse", lin_k[:, at], v[:, at]) for at in spans])
    out = np.zeros_like(v)
    for g, at in enumerate(spans):
        n = at.stop - at.start
        earlier = min(chunk, at.start) if overlap else 0
        keys = slice(at.start - earlier, at.stop)
        first = chunk if overlap else 0
        scores = quad_q[:, at] @ quad_k[:, keys].swapaxes(1, 2) + bias[first : first + n, first - earlier : first + n]
        kernel = np.square(np.maximum(scores, 0))
        out[:, at] = (np.tril(kernel, earlier) if causal else kernel) @ v[:, keys]
        weights = np.array([_sees(segment_ids, at, other) for other in spans]).reshape(len(spans), -1)
        weights = np.broadcast_to(weights, (len(spans), batch)).astype(np.float64).copy()
        if causal:
            weights[g:] = 0
        if lin_norm == "chunk_mean":
            weights /= np.maximum(weights.sum(0), 1)
        if chunk_weights is not None:
            weights *= chunk_weights[:, g].T
        out[:, at] += lin_q[:, at] @ np.einsum("hb,hbse->bse", weights, states) / (1 if lin_norm == "none" else chunk)
    return out


def _sees(segment_ids: Any, at: slice, other: slice) -> Any:
    """Whether the ranges of ids of two chunks overlap (Code 7), for each row of the batch."""
    if segment_ids is None:
        return np.ones(1)
    ranges = (segment_ids[:, part] for part in (at, other))
    (first, last), (start, end) = ((x.min(1), x.max(1)) for x in ranges)
    return (first <= end) & (last >= start)


def _decompose_mixed(
    b: Builder,
    quad_q: Value,
    quad_k: Value,
    lin_q: Value,
    lin_k: Value,
    v: Value,
    bias: Value,
    segment_ids: Value | None = None,
    *,
    chunk: int,
    causal: bool,
    cumsum: str,
    lin_norm: str,
) -> Value:
    """Local + global over [b, g, chunk, *]; zeros that pad the last chunk add nothing."""
    quad_q, quad_k, lin_q, lin_k, values = (chunked(b, x, chunk) for x in (quad_q, quad_k, lin_q, lin_k, v))
    visible = None if segment_ids is None else overlapping_chunks(b, segment_ids, chunk, values.type.shape[1])
    local = b.quadratic_attention(quad_q, quad_k, values, bias, causal=causal)
    distant = b.linear_attention(lin_q, lin_k, values, visible, causal=causal, cumsum=cumsum, lin_norm=lin_norm)
    return unchunked(b, b.add(local, distant), v.type.shape[1])


def chunked(b: Builder, x: Value, chunk: int) -> Value:
    """[b, t, *] -> [b, g, chunk, *], zeros after the last row"""
    x = pad_to_multiple(b, x, 1, chunk)
    batch, length, *rest = x.type.shape
    return b.reshape(x, shape=(batch, ceildiv(length, chunk), chunk, *rest))


def unchunked(b: Builder, x: Value, length: Size) -> Value:
    """[b, g, n, *] -> [b, t, *], the padding cut off"""
    batch, chunks, n, *rest = x.type.shape
    flat = b.reshape(x, shape=(batch, chunks * n, *rest))
    return flat if chunks * n == length else b.slice(flat, axis=1, stop=length)


def overlapping_chunks(b: Builder, segment_ids: Value, chunk: int, chunks: Size) -> Value:
    """[b, t] -> bool [b, g, h]: whether the id ranges of two chunks overlap (Code 7)

    What pads the last chunk takes the id of the chunk's own first token, so it widens no range, whatever ids may be.
    """
    batch, length = segment_ids.type.shape
    ids = b.reshape(b.pad(segment_ids, axis=1, after=chunks * chunk - length), shape=(batch, chunks, chunk))
    if chunks * chunk != length:
        token = b.less(b.iota(length=chunks * chunk), b.size(value=length))
        ids = b.select(b.reshape(token, shape=(chunks, chunk)), ids, b.slice(ids, axis=2, stop=1))
    first, last = b.reduce_min(ids, axes=(2,)), b.reduce_max(ids, axes=(2,))

    def row(x: Value) -> Value:
        return b.reshape(x, shape=(batch, chunks, 1))

    def column(x: Value) -> Value:
        return b.reshape(x, shape=(batch, 1, chunks))

    return b.logical_and(b.less_equal(row(first), column(last)), b.less_equal(column(first), row(last)))


def _cost_mixed(ins: Types, outs: Types, chunk: int, causal: bool, cumsum: str, lin_norm: str) -> Cost:
    q, v, traffic = ins[0], ins[4], moved(ins, outs)
    assert q is not None and v is not None
    batch, length, s = q.sizes
    e, g = v.sizes[-1], -(-length // chunk)
    products = (
        Contraction(batch * g, chunk, s, chunk),
        Contraction(batch * g, chunk, chunk, e),
        Contraction(batch * g, s, chunk, e),
        Contraction(batch * g, chunk, s, e),
    )
    flops = batch * g * (4.0 * chunk * chunk + s * e)
    return Cost(flops, traffic.read, traffic.written, g if cumsum == "scan" else 1, products)


_MIXED = ("f32[2, 7, 4]",) * 4 + ("f32[2, 7, 6]", "f32[3, 3]")

mixed_chunk_attention = define_op(
    OpDef(
        "mixed_chunk_attention",
        ("quad_q", "quad_k", "lin_q", "lin_k", "v", "bias", "segment_ids?"),
        _infer_mixed,
        ref_mixed,
        _cost_mixed,
        tuple(
            sample(*_MIXED, *segments, chunk=3, causal=causal, cumsum=kind, lin_norm=norm)
            for causal in (True, False)
            for kind, norm in (("scan", "none"), ("matmul", "chunk"), ("native", "chunk_mean"))
            for segments in ((), ("i32[2, 7]",))
        ),
        attrs={"chunk": integer(least=1), "causal": flag(), "cumsum": CUMSUM, "lin_norm": LIN_NORM},
        decompose=_decompose_mixed,
        stream=Stream(mixed_step, mixed_after),
        doc="quadratic attention within each chunk plus linear attention between chunks",
    )
)
