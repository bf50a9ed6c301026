"""Linear attention between chunks (Eq. 7, 8): q (sum of k^T v over the chunks that a chunk sees).

Axes: b batch, g and h chunks, n positions within a chunk, s key, e expanded. Queries are already scaled: the op itself
scales only by `lin_norm`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import Contraction, Cost, Types, moved
from flashir.ir.dims import Size
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, choice, define_op, flag, sample
from flashir.ir.types import DType, TensorType
from flashir.ops.attention.chunk_choices import CUMSUM
from flashir.ops.attention.documents import are_packed
from flashir.ops.attention.linear_documents import linear_of_documents, ref_between, sum_by_loop
from flashir.ops.attention.quadratic import check_heads
from flashir.ops.decode.context import column
from flashir.ops.functions.norm import accumulation_dtype, as_dtype, scaled
from flashir.ops.primitive.scan import strictly_lower

LIN_NORMS = ("none", "chunk", "chunk_mean")
LIN_NORM = choice(
    *LIN_NORMS,
    default="chunk_mean",
    doc="global part: plain sum (Eq. 8), divided by the chunk (none, chunk), averaged over visible chunks (Code 8)",
)


def _infer_linear(
    q: TensorType,
    k: TensorType,
    v: TensorType,
    visible: TensorType | None = None,
    weights: TensorType | None = None,
    documents: TensorType | None = None,
    decay: TensorType | None = None,
    *,
    causal: bool,
    cumsum: str,
    **_: Any,
) -> TensorType:
    check_heads(q, k, v)
    if q.rank != 4:
        raise IRError(f"q, k, v must be chunked, [b, g, n, s], got {q}")
    if visible is not None and (
        visible.shape != (q.shape[0], q.shape[1], q.shape[1]) or visible.dtype is not DType.BOOL
    ):
        raise IRError(f"visible must be bool of shape (b, g, g), got {visible}")
    if weights is not None and weights != TensorType(accumulation_dtype(v.dtype), (q.shape[0], q.shape[1], q.shape[1])):
        raise IRError(f"weights must be {accumulation_dtype(v.dtype)} of shape (b, g, g), got {weights}")
    if documents is not None:
        if documents.shape != q.shape[:3] or documents.dtype not in (DType.BOOL, DType.I32):
            raise IRError(f"documents must be bool or i32 of shape (b, g, n), got {documents}")
        if are_packed(documents) and visible is not None:
            raise IRError("packed documents and visible exclude each other: give one of them")
        if are_packed(documents) and weights is not None and not causal:
            raise IRError("weights of chunks cannot separate packed documents in a bidirectional model")
    if decay is not None:
        wanted = [TensorType(accumulation_dtype(v.dtype), (q.shape[0], chunks)) for chunks in (q.shape[1], 1)]
        if decay not in wanted or not causal or cumsum == "native":
            raise IRError(
                f"decay must be {wanted[0]} or {wanted[1]}, causal and without a native sum, got {decay}, "
                f"causal = {causal}, cumsum = {cumsum}"
            )
    return v


def _ref_linear(
    q: Any,
    k: Any,
    v: Any,
    visible: Any = None,
    weights: Any = None,
    documents: Any = None,
    decay: Any = None,
    *,
    causal: bool,
    cumsum: str,
    lin_norm: str,
) -> Any:
    batch, chunks, n = q.shape[:3]
    if decay is not None:
        left = _ref_left(np.broadcast_to(decay, (batch, chunks)))
        weights = left if weights is None else left * weights
    if documents is not None:
        flat = [x.reshape(batch, chunks * n, *x.shape[3:]) for x in (q, k, v, documents)]
        masks = {"visible": visible, "weights": weights}
        return ref_between(*flat, chunk=n, causal=causal, lin_norm=lin_norm, **masks).reshape(v.shape)
    mask = np.ones((batch, chunks, chunks)) if visible is None else visible.astype(np.float64)
    mask = np.tril(mask, -1) if causal else mask
    if lin_norm == "chunk_mean":
        mask = mask / np.maximum(mask.sum(-1, keepdims=True), 1)
    if weights is not None:
        mask = mask * weights
    state = np.einsum("bgh,bhse->bgse", mask, np.einsum("bgns,bgne->bgse", k, v))
    return np.einsum("bgns,bgse->bgne", q, state) / (1 if lin_norm == "none" else n)


def _ref_left(decay: Any) -> Any:
    """The factor of the state of chunk h at chunk g, [b, g, h]: the decays of all chunks between them."""
    chunks = decay.shape[1]
    factors = np.zeros((*decay.shape, chunks))
    for g in range(chunks):
        for h in range(g):
            factors[:, g, h] = np.exp(decay[:, h + 1 : g].sum(1))
    return factors


def _decompose_linear(
    b: Builder,
    q: Value,
    k: Value,
    v: Value,
    visible: Value | None = None,
    weights: Value | None = None,
    documents: Value | None = None,
    decay: Value | None = None,
    *,
    causal: bool,
    cumsum: str,
    lin_norm: str,
) -> Value:
    """q (sum over visible chunks of k^T v), with the norm applied to k (1 / n) and q (1 / number of chunks)"""
    if decay is not None and (cumsum != "scan" or visible is not None or weights is not None):
        left = _left(b, decay, q.type.shape[1])
        weights, decay = left if weights is None else b.mul(left, weights), None
    if documents is not None:
        return linear_of_documents(
            b, q, k, v, visible, weights, documents, decay, causal=causal, cumsum=cumsum, lin_norm=lin_norm
        )
    chunks, n = q.type.shape[1:3]
    if lin_norm != "none":
        k = b.mul(k, 1.0 / _known(n))
    if visible is not None or weights is not None:
        return _masked(b, q, k, v, visible, weights, causal, lin_norm)
    if lin_norm == "chunk_mean" and causal:
        seen = b.maximum(b.iota(length=chunks, dtype=accumulation_dtype(q.type.dtype)), 1.0)
        share = b.reshape(b.reciprocal(seen), shape=(chunks, 1, 1))
        if q.type.dtype is DType.F16 and cumsum != "scan":  # the sum may overflow, the mean does not
            return b.matmul(q, as_dtype(b, b.mul(b.prefix_sum(_states(b, k, v), cumsum=cumsum), share), q.type.dtype))
        q = scaled(b, q, share)
    if lin_norm == "chunk_mean" and not causal:
        count = b.maximum(b.size(value=chunks, dtype=accumulation_dtype(q.type.dtype)), 1.0)
        if q.type.dtype is DType.F16:
            return _sum_of_all(b, q, k, v, b.reciprocal(count))
        q = scaled(b, q, b.reciprocal(count))
    if not causal:
        return _sum_of_all(b, q, k, v)
    if cumsum == "scan":
        return sum_by_loop(b, q, k, v, decay=decay)
    return b.matmul(q, as_dtype(b, b.prefix_sum(_states(b, k, v), cumsum=cumsum), q.type.dtype))


def _left(b: Builder, decay: Value, chunks: Size) -> Value:
    """[b, g] or [b, 1] -> the factor of the state of chunk h at chunk g > h, [b, g, h]; 0 for h >= g

    A constant decay is multiplied instead of summed, so that its rounding error does not grow with the chunks.
    """
    batch, known = decay.type.shape
    lower = strictly_lower(b, chunks, DType.BOOL)
    if known == chunks:
        after = b.cumsum(decay, axis=1)
        between = b.sub(column(b, b.sub(after, decay)), b.reshape(after, shape=(batch, 1, chunks)))
    else:
        index = b.iota(length=chunks, dtype=decay.type.dtype)
        apart = b.sub(b.sub(column(b, index), 1.0), b.reshape(index, shape=(1, chunks)))
        between = b.mul(column(b, decay), apart)
    return b.exp(b.select(lower, between, float("-inf")))


def _known(n: Size) -> int:
    if not isinstance(n, int):
        raise IRError(f"the chunk must be known, got {n}", hint="choose a chunk first")
    return n


def _states(b: Builder, k: Value, v: Value) -> Value:
    """[b, g, n, s], [b, g, n, e] -> the state that each chunk adds, [b, g, s, e], at least in float32"""
    return as_dtype(b, b.matmul(k, v, transpose_x=True), accumulation_dtype(v.type.dtype))


def _sum_of_all(b: Builder, q: Value, k: Value, v: Value, share: Value | None = None) -> Value:
    """Not causal (Eq. 7): one product over all positions, times `share`."""
    batch, chunks, n, s = q.type.shape
    e = v.type.shape[-1]
    total = b.matmul(
        b.reshape(k, shape=(batch, chunks * n, s)), b.reshape(v, shape=(batch, chunks * n, e)), transpose_x=True
    )
    total = total if share is None else scaled(b, total, share)
    return b.reshape(b.matmul(b.reshape(q, shape=(batch, chunks * n, s)), total), shape=v.type.shape)


def _masked(
    b: Builder, q: Value, k: Value, v: Value, visible: Value | None, weights: Value | None, causal: bool, lin_norm: str
) -> Value:
    """The masked form for segments (Code 7) and weights (Appendix A): mask[b, g, h] x states[b, h, s * e]"""
    batch, chunks, _, s = q.type.shape
    e, dtype = v.type.shape[-1], accumulation_dtype(v.type.dtype)
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


def _cost_linear(ins: Types, outs: Types, causal: bool, cumsum: str, lin_norm: str) -> Cost:
    q, v = ins[0], ins[2]
    assert q is not None and v is not None
    batch, g, n, s = q.sizes
    e, traffic = v.sizes[-1], moved(ins, outs)
    products: tuple[Contraction, ...] = (Contraction(batch * g, s, n, e), Contraction(batch * g, n, s, e))
    documents = ins[5] if len(ins) > 5 else None
    if documents is not None and are_packed(documents) and not causal:  # earlier, later and own chunk
        products = (*products, *products, Contraction(batch * g, n, s, n), Contraction(batch * g, n, n, e))
    return Cost(float(batch * g * s * e), traffic.read, traffic.written, g if cumsum == "scan" else 1, products)


_CHUNKS = ("f32[2, 5, 3, 4]", "f32[2, 5, 3, 4]", "f32[2, 5, 3, 6]")

linear_attention = define_op(
    OpDef(
        "linear_attention",
        ("q", "k", "v", "visible?", "weights?", "documents?", "decay?"),
        infer=_infer_linear,
        ref=_ref_linear,
        cost=_cost_linear,
        samples=tuple(
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
        )
        + tuple(
            sample(*_CHUNKS, *masks, "bool[2, 5, 3]", causal=causal, cumsum=kind, lin_norm=norm)
            for causal in (True, False)
            for kind, norm, masks in (
                ("scan", "none", (None, None)),
                ("native", "chunk_mean", (None, None)),
                ("matmul", "chunk", (None, None)),
                ("matmul", "chunk_mean", ("bool[2, 5, 5]", None)),
                ("matmul", "chunk_mean", (None, "f32[2, 5, 5]")),
            )
        )
        + tuple(
            sample(*_CHUNKS, *masks, *[None] * (3 - len(masks)), decay, causal=True, cumsum=kind)
            for kind in ("scan", "matmul")
            for decay in ("f32[2, 5]", "f32[2, 1]")
            for masks in ((), ("bool[2, 5, 5]",), (None, None, "bool[2, 5, 3]"))
        ),
        attrs={"causal": flag(), "cumsum": CUMSUM, "lin_norm": LIN_NORM},
        decompose=_decompose_linear,
        doc="attention between chunks: q (sum of k^T v over the visible chunks), strictly earlier chunks if causal",
    )
)
