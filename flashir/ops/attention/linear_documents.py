"""Linear attention between chunks where documents are kept apart.

Documents are runs, so of all that a chunk holds only its last document goes on into later chunks, and only its first
came from earlier ones. A query sees what its own document left in them:

    before   chunk g asks for the document that chunk g - 1 ends in, and chunk h < g gives the one that it ends in
    after    chunk g asks for the document that chunk g + 1 begins with, and chunk h > g gives the one it begins with
    own      both ways, a query sees its document within its own chunk as well, token by token

So keys and queries are masked, and a state is added up as long as chunks end in one document: a loop that begins anew
with the next document, or a mask of chunks. Subtracting running sums, as `native` does, would leave rounding behind.

Axes: b batch, g and h chunks, n positions within a chunk, s key, e expanded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

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

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Value


def sum_by_loop(
    b: Builder, q: Value, k: Value, v: Value, goes_on: Value | None = None, decay: Value | None = None
) -> Value:
    """q (sum of k^T v over earlier chunks), by one loop that carries the s x e state and never stores them all.

    Args:
        b, q, k, v: the builder, [b, g, n, s] twice, [b, g, n, e].
        goes_on: bool [b, g], whether the state goes on after a chunk; where not, the chunk's own sum is all of it.
        decay: [b, g], the log of what is left of the state after a chunk; [b, 1] where it is the same for all.
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
    kept, walked = state, [q, k, v]
    whole: list[Value] = []
    if decay is not None:
        left = b.exp(decay)
        same = decay.type.shape[1] != q.type.shape[1]
        left_g = body.input("left", left.type.with_shape((batch, 1) if same else (batch,)))
        (whole if same else walked).append(left)
        kept = body.mul(state, body.reshape(left_g, shape=(batch, 1, 1)))
    if goes_on is not None:
        walked.append(goes_on)
        goes_on_g = body.input("goes_on", goes_on.type.with_shape((batch,)))
        kept = body.select(body.reshape(goes_on_g, shape=(batch, 1, 1)), kept, 0.0)
    after = body.add(kept, as_dtype(body, body.matmul(k_g, v_g, transpose_x=True), dtype))
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
    """`linear_attention` with documents [b, g, n], by one without: keys and queries masked, and a mask of chunks.

    `visible` stands beside a mask alone, `weights` beside a mask or where causal.
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
    """A row is one document: padding adds nothing, asks for nothing, and chunks of padding alone do not count."""
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
    """[b, g] -> [b, g]; 0, the number of nothing, for the first chunk"""
    return b.slice(b.pad(x, axis=1, before=1), axis=1, stop=x.type.shape[1])


def _of_chunk_after(b: Builder, x: Value) -> Value:
    """[b, g] -> [b, g]; 0 for the last chunk"""
    chunks = x.type.shape[1]
    return b.slice(b.pad(x, axis=1, after=1), axis=1, start=1, stop=chunks + 1)


class _Side:
    """What chunks see on one side of them.

    Args:
        b: the builder.
        documents: the numbers of tokens, i32 [b, g, n].
        earlier: whether the side is that of earlier chunks.

    `given` is the document that each chunk gives to those on the other side, `asked` the one that it may see on this
    side, 0 for none, i32 [b, g]; `gives` and `asks` are their tokens in it, bool [b, g, n].
    """

    def __init__(self, b: Builder, documents: Value, *, earlier: bool) -> None:
        batch, chunks, _ = documents.type.shape
        given = b.reshape(end_of_chunks(b, documents, first=not earlier), shape=(batch, chunks))
        asked = _of_chunk_before(b, given) if earlier else _of_chunk_after(b, given)
        self.b, self.given, self.asked = b, given, asked
        self.asks = equal(b, documents, column(b, asked))
        self.gives = of_last_document(b, documents, first=not earlier)
        lower = strictly_lower(b, chunks, DType.BOOL)
        ordered = lower if earlier else b.transpose(lower, perm=(1, 0))
        held = b.reshape(any_of(b, self.gives), shape=(batch, 1, chunks))
        same = equal(b, column(b, asked), b.reshape(given, shape=(batch, 1, chunks)))
        self.seen = b.logical_and(b.logical_and(same, held), ordered)
        """Which chunks each chunk sees, bool [b, g, h]."""

    def counts(self, dtype: DType) -> Value:
        """How many chunks each chunk sees, [b, g]"""
        return self.b.reduce_sum(self.b.cast(self.seen, dtype=dtype), axes=(2,))

    def masked(self, q: Value, k: Value) -> tuple[Value, Value]:
        """q where a query asks for this side, k where a key is given to the other"""
        return self.b.select(column(self.b, self.asks), q, 0.0), self.b.select(column(self.b, self.gives), k, 0.0)


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
    """Causal: a loop whose state begins anew with another document, or a mask of chunks"""
    q, k = side.masked(q, k)
    if cumsum != "scan" or weights is not None:
        return b.linear_attention(q, k, v, side.seen, weights, causal=True, cumsum="matmul", lin_norm=lin_norm)
    n = q.type.shape[2]
    assert isinstance(n, int)
    if lin_norm != "none":
        k = b.mul(k, 1.0 / n)
    if lin_norm == "chunk_mean":
        q = scaled(b, q, _share(b, side.counts(accumulation_dtype(q.type.dtype))))
    return sum_by_loop(b, q, k, v, equal(b, side.given, side.asked), decay)


def _both_ways(
    b: Builder, q: Value, k: Value, v: Value, documents: Value, before: _Side, after: _Side, lin_norm: str
) -> Value:
    """The chunks on both sides by masks of chunks, and within its own chunk each document by itself"""
    n, dtype = q.type.shape[2], accumulation_dtype(q.type.dtype)
    assert isinstance(n, int)
    if lin_norm != "none":
        k = b.mul(k, 1.0 / n)
    if lin_norm == "chunk_mean":
        seen = b.constant(1.0, dtype)
        for side in (before, after):
            chunks = column(b, side.counts(dtype))
            seen = b.add(b.select(side.asks, chunks, 0.0), seen)
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
    """[b, g] -> 1 / counts, [b, g, 1, 1], 1 where there are none"""
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
    """Token by token, [b, t, *]: each query with all keys of its document in the chunks that it sees.

    `weights` [b, g, h] weigh the states of chunks, `fading` [b, t, m] says what is left of a key.
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
