"""Linear attention between chunks with packed documents.

A document is a run of tokens. So only the last document of a chunk continues in later chunks, and only its first one
began in earlier chunks. A query sees the tokens of its own document there:

    before   chunk g reads the last document of chunk g - 1; chunk h < g provides its last document
    after    chunk g reads the first document of chunk g + 1; chunk h > g provides its first document
    own      in a bidirectional model, a query also sees its document within its own chunk, token by token

So keys and queries are masked, and states are summed as long as chunks end in the same document: by a loop that resets
its state, or with a mask of chunks. Subtracting running sums, as `native` would, leaves rounding errors.

Axes: b batch, g and h chunks, n positions within a chunk, s key, e expanded.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.ir.builder import Builder
from flashir.ir.graph import Value
from flashir.ir.types import DType
from flashir.ops.attention.documents import (
    any_of,
    are_packed,
    are_tokens,
    end_of_chunks,
    of_last_document,
    of_one_document,
    ref_numbers,
    ref_seen,
)
from flashir.ops.decode.context import column, equal
from flashir.ops.functions.norm import accumulation_dtype, as_dtype, scaled
from flashir.ops.primitive.scan import strictly_lower


def sum_by_loop(
    b: Builder, q: Value, k: Value, v: Value, goes_on: Value | None = None, decay: Value | None = None
) -> Value:
    """q (sum of k^T v over earlier chunks), by a loop that carries the s x e state and does not store all states.

    Args:
        b: the builder.
        q, k: [b, g, n, s].
        v: [b, g, n, e].
        goes_on: bool [b, g], whether a chunk keeps the state; otherwise the state is reset to the sum of the chunk.
        decay: the log of the factor of the state after a chunk, [b, g], or [b, 1] if it is the same for all chunks.
    """
    batch, _, n, s = q.type.shape
    e, dtype = v.type.shape[-1], accumulation_dtype(v.type.dtype)
    zeros = b.broadcast(b.constant(0.0, dtype), shape=(batch, s, e))
    body = b.subgraph()
    state = body.input("state", zeros.type)
    q_g = body.input("q", q.type.with_shape((batch, n, s)))
    k_g = body.input("k", k.type.with_shape((batch, n, s)))
    v_g = body.input("v", v.type.with_shape((batch, n, e)))
    out = body.matmul(q_g, as_dtype(body, state, q.type.dtype))
    before, walked = state, [q, k, v]
    whole: list[Value] = []
    if decay is not None:
        factor = b.exp(decay)
        same = decay.type.shape[1] != q.type.shape[1]
        factor_g = body.input("left", factor.type.with_shape((batch, 1) if same else (batch,)))
        (whole if same else walked).append(factor)
        before = body.mul(state, body.reshape(factor_g, shape=(batch, 1, 1)))
    if goes_on is not None:
        walked.append(goes_on)
        goes_on_g = body.input("goes_on", goes_on.type.with_shape((batch,)))
        before = body.select(body.reshape(goes_on_g, shape=(batch, 1, 1)), before, 0.0)
    after = body.add(before, as_dtype(body, body.matmul(k_g, v_g, transpose_x=True), dtype))
    loop = {"carries": 1, "axis": 1, "invariants": len(whole)}
    _, result = b.results("scan", zeros, *walked, *whole, **loop, body=body.finish(after, out))
    return result


def linear_of_documents(
    b: Builder,
    q: Value,
    k: Value,
    v: Value,
    visible: Value | None,
    weights: Value | None,
    documents: Value,
    decay: Value | None,
    *,
    causal: bool,
    cumsum: str,
    lin_norm: str,
) -> Value:
    """`linear_attention` with documents [b, g, n], by the op without them on masked keys and queries.

    `visible` requires a mask; `weights` require a mask or causal attention.
    """
    if not are_packed(documents.type):
        return _of_one(b, q, k, v, visible, weights, documents, decay, causal=causal, cumsum=cumsum, lin_norm=lin_norm)
    before = _Side(b, documents, earlier=True)
    if causal:
        return _before(b, q, k, v, weights, decay, before, cumsum, lin_norm)
    after = _Side(b, documents, earlier=False)
    return _both_ways(b, q, k, v, documents, before, after, lin_norm)


def _of_one(
    b: Builder,
    q: Value,
    k: Value,
    v: Value,
    visible: Value | None,
    weights: Value | None,
    mask: Value,
    decay: Value | None,
    *,
    causal: bool,
    cumsum: str,
    lin_norm: str,
) -> Value:
    """Rows of one document: padding is zeroed in keys and queries, and chunks of padding do not count."""
    token = column(b, mask)
    q, k = (b.select(token, x, 0.0) for x in (q, k))
    held = any_of(b, mask)
    if visible is None and weights is None:
        if lin_norm == "chunk_mean":
            counts = b.cast(held, dtype=accumulation_dtype(q.type.dtype))
            seen = (
                b.cumsum(counts, axis=1, exclusive=True) if causal else b.reduce_sum(counts, axes=(1,), keepdims=True)
            )
            q, lin_norm = scaled(b, q, _share(b, seen)), "chunk"
        return b.linear_attention(q, k, v, decay=decay, causal=causal, cumsum=cumsum, lin_norm=lin_norm)
    batch, chunks = held.type.shape
    held = b.reshape(held, shape=(batch, 1, chunks))
    whole = b.broadcast(held, shape=(batch, chunks, chunks))
    visible = whole if visible is None else b.logical_and(visible, held)
    return b.linear_attention(q, k, v, visible, weights, causal=causal, cumsum=cumsum, lin_norm=lin_norm)


def _of_chunk_before(b: Builder, x: Value) -> Value:
    """[b, g] -> [b, g], shifted by one chunk; 0, no document, for the first chunk"""
    return b.slice(b.pad(x, axis=1, before=1), axis=1, stop=x.type.shape[1])


def _of_chunk_after(b: Builder, x: Value) -> Value:
    """[b, g] -> [b, g], shifted by one chunk; 0, no document, for the last chunk"""
    chunks = x.type.shape[1]
    return b.slice(b.pad(x, axis=1, after=1), axis=1, start=1, stop=chunks + 1)


class _Side:
    """The documents that chunks share with earlier chunks, or with later ones.

    Args:
        b: the builder.
        documents: the document numbers, i32 [b, g, n].
        earlier: whether the side is that of earlier chunks.

    `provided` is the document that each chunk provides to chunks on the other side, `wanted` the document that it reads
    on this side, 0 for none, i32 [b, g]. `provides` and `reads` are their tokens in the chunk, bool [b, g, n].
    """

    def __init__(self, b: Builder, documents: Value, *, earlier: bool) -> None:
        batch, chunks, _ = documents.type.shape
        provided = b.reshape(end_of_chunks(b, documents, first=not earlier), shape=(batch, chunks))
        wanted = _of_chunk_before(b, provided) if earlier else _of_chunk_after(b, provided)
        self.b, self.provided, self.wanted = b, provided, wanted
        self.reads = equal(b, documents, column(b, wanted))
        self.provides = of_last_document(b, documents, first=not earlier)
        lower = strictly_lower(b, chunks, DType.BOOL)
        ordered = lower if earlier else b.transpose(lower, perm=(1, 0))
        held = b.reshape(any_of(b, self.provides), shape=(batch, 1, chunks))
        same = equal(b, column(b, wanted), b.reshape(provided, shape=(batch, 1, chunks)))
        self.seen = b.logical_and(b.logical_and(same, held), ordered)
        """Which chunks each chunk sees, bool [b, g, h]."""

    def counts(self, dtype: DType) -> Value:
        """The number of chunks that each chunk sees, [b, g]"""
        return self.b.reduce_sum(self.b.cast(self.seen, dtype=dtype), axes=(2,))

    def masked(self, q: Value, k: Value) -> tuple[Value, Value]:
        """q with zeros for queries that read nothing on this side, k with zeros for keys not provided to the other"""
        return self.b.select(column(self.b, self.reads), q, 0.0), self.b.select(column(self.b, self.provides), k, 0.0)


def _before(
    b: Builder,
    q: Value,
    k: Value,
    v: Value,
    weights: Value | None,
    decay: Value | None,
    side: _Side,
    cumsum: str,
    lin_norm: str,
) -> Value:
    """Causal: a loop that resets its state at another document, or a mask of chunks"""
    q, k = side.masked(q, k)
    if cumsum != "scan" or weights is not None:
        return b.linear_attention(q, k, v, side.seen, weights, causal=True, cumsum="matmul", lin_norm=lin_norm)
    n = q.type.shape[2]
    assert isinstance(n, int)
    if lin_norm != "none":
        k = b.mul(k, 1.0 / n)
    if lin_norm == "chunk_mean":
        q = scaled(b, q, _share(b, side.counts(accumulation_dtype(q.type.dtype))))
    return sum_by_loop(b, q, k, v, equal(b, side.provided, side.wanted), decay)


def _both_ways(
    b: Builder, q: Value, k: Value, v: Value, documents: Value, before: _Side, after: _Side, lin_norm: str
) -> Value:
    """Bidirectional: masks of chunks for both sides, and a mask of tokens within each chunk"""
    n, dtype = q.type.shape[2], accumulation_dtype(q.type.dtype)
    assert isinstance(n, int)
    if lin_norm != "none":
        k = b.mul(k, 1.0 / n)
    if lin_norm == "chunk_mean":
        seen = b.constant(1.0, dtype)
        for side in (before, after):
            chunks = column(b, side.counts(dtype))
            seen = b.add(b.select(side.reads, chunks, 0.0), seen)
        q = scaled(b, q, column(b, b.reciprocal(seen)))
    q = b.select(column(b, are_tokens(b, documents)), q, 0.0)
    products = b.select(of_one_document(b, documents, n), b.matmul(q, k, transpose_y=True), 0.0)
    out = b.matmul(products, v)
    for side in (before, after):
        queries, keys = side.masked(q, k)
        far = b.linear_attention(queries, keys, v, side.seen, causal=False, cumsum="matmul", lin_norm="none")
        out = b.add(out, far)
    return out


def _share(b: Builder, counts: Value) -> Value:
    """[b, g] -> 1 / counts, [b, g, 1, 1]; 1 where the count is 0"""
    return column(b, column(b, b.reciprocal(b.maximum(counts, 1.0))))


def ref_between(
    q: Any,
    k: Any,
    v: Any,
    documents: Any,
    *,
    chunk: int,
    causal: bool,
    lin_norm: str,
    visible: Any = None,
    weights: Any = None,
    fading: Any = None,
) -> Any:
    """In numpy, [b, t, *]: each query with all keys of its document in the chunks that it sees.

    `weights` [b, g, h] are weights of chunk states, `fading` [b, t, m] decay factors of keys.
    """
    batch, length = v.shape[:2]
    of_token = np.arange(length) // chunk
    seen = ref_seen(ref_numbers(documents, length), length, 3)
    chunks = int(of_token[-1]) + 1 if length else 0
    pairs = np.ones((batch, chunks, chunks)) if visible is None else visible.astype(np.float64)
    pairs = np.tril(pairs, -1) if causal else pairs
    seen = seen * pairs[:, of_token][:, :, of_token]
    scores = np.einsum("bts,bms->btm", q, k) * seen
    if weights is not None:
        scores = scores * weights[:, of_token][:, :, of_token]
    scores = scores if fading is None else scores * fading
    if lin_norm == "chunk_mean":
        parts = [seen[:, :, of_token == h].any(-1) for h in range(chunks)]
        scores = scores / np.maximum(np.sum(parts, axis=0), 1)[..., None] if parts else scores
    return scores @ v / (1 if lin_norm == "none" else chunk)
