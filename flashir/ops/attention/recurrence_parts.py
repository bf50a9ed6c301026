"""The decomposition of the chunked recurrence over chunks [r, g, n, *]: the local part, the global part, and decay.

Let c_t be the cumulative log decay from the start of a chunk up to and including token t. Within a chunk, key m has the
factor exp(c_t - c_m) for query t. Between chunks this factor is split into three, none above 1:

    queries  exp(c_t)              from the start of their chunk
    keys     exp(c_n - c_m)        to the end of their chunk
    states   exp(c_n), per chunk   in `linear_attention`

Axes: r rows (b, or b * h with heads), t length, g chunks, n and m within a chunk, s key, e value.
"""

from __future__ import annotations

from flashir.ir.builder import Builder
from flashir.ir.dims import Size, divides
from flashir.ir.graph import Value
from flashir.ir.types import DType
from flashir.ops.attention.chunks import chunked, chunked_documents, overlapping_chunks, unchunked
from flashir.ops.attention.documents import (
    are_packed,
    are_tokens,
    clear_padding,
    document_numbers,
    for_each_head,
    mask_scores,
    of_one_document,
)
from flashir.ops.attention.softmax import until_now
from flashir.ops.decode.context import column, with_rank
from flashir.ops.functions.norm import accumulation_dtype, scaled
from flashir.ops.layers.multi_head import rows_of_heads


def decompose_recurrence(
    b: Builder,
    v: Value,
    quad_q: Value | None = None,
    quad_k: Value | None = None,
    bias: Value | None = None,
    lin_q: Value | None = None,
    lin_k: Value | None = None,
    decay: Value | None = None,
    segment_ids: Value | None = None,
    documents: Value | None = None,
    *,
    chunk: int | None,
    tile: int,
    causal: bool,
    cumsum: str,
    lin_norm: str,
    overlap: bool,
    kernel: str,
) -> Value:
    """The sum of the present parts, over [r, g, n, *]. The last chunk is padded with zeros, which add nothing."""
    length, n = v.type.shape[-2], tile if chunk is None else chunk
    if chunk is None:
        assert lin_q is not None and lin_k is not None
        if documents is not None and not are_packed(documents.type):  # zero the keys and queries of padding
            token = column(b, are_tokens(b, document_numbers(b, documents, length)))
            token = with_rank(b, token, v.type.rank)
            lin_q, lin_k, documents = b.select(token, lin_q, 0.0), b.select(token, lin_k, 0.0), None
        if not causal and documents is None:
            return b.matmul(lin_q, b.matmul(lin_k, v, transpose_x=True))
        if causal:  # the own tile of a token is the local part
            quad_q, quad_k, kernel = lin_q, lin_k, "identity"
    operands = dict.fromkeys(x for x in (quad_q, quad_k, lin_q, lin_k, v) if x is not None)
    rows = {x: x if x.type.rank == 3 else rows_of_heads(b, x) for x in operands}
    in_chunks = {x: chunked(b, rows[x], n) for x in operands}
    values = in_chunks[v]
    chunks = values.type.shape[1]
    near = padding_mask(b, v, n, causal, kernel) if documents is None and bias is not None else None
    near, documents = (
        None if x is None else chunked_documents(b, _of_rows(b, x, v), n, chunks) for x in (near, documents)
    )
    visible = overlapping_chunks(b, segment_ids, n, chunks, documents) if lin_q is not None else None
    since = None if decay is None else _since(b, decay, values, v, n)
    parts, weights = [], None
    if quad_q is not None and quad_k is not None:
        q, k = in_chunks[quad_q], in_chunks[quad_k]
        if kernel == "identity":
            weights = _products(b, q, k, bias, since if chunk is None else None, documents, causal)
        elif bias is not None:
            mask = documents if near is None else near
            parts.append(local_part(b, q, k, values, bias, mask, causal, overlap, kernel))
        else:
            parts.append(_weighed(b, q, k, values, length, documents, causal, kernel))
    if lin_q is not None and lin_k is not None:
        q, k, fade = in_chunks[lin_q], in_chunks[lin_k], None
        if since is not None:
            end = b.slice(since, axis=2, start=n - 1, stop=n)
            q, k = scaled(b, q, column(b, b.exp(since))), scaled(b, k, column(b, b.exp(b.sub(end, since))))
            fade = b.reshape(end, shape=end.type.shape[:2])
        sums = {"causal": causal, "cumsum": cumsum, "lin_norm": lin_norm}
        parts.append(b.linear_attention(q, k, values, visible, None, documents, fade, **sums))
    if weights is not None:  # after the sums, whose states are as large
        parts.insert(0, b.matmul(weights, values))
    out = unchunked(b, parts[0] if len(parts) == 1 else b.add(*parts), length)
    return out if v.type.rank == 3 else b.reshape(out, shape=v.type.shape)


def _of_rows(b: Builder, documents: Value, v: Value) -> Value:
    """[b, t] -> [r, t]"""
    return documents if v.type.rank == 3 else for_each_head(b, documents, v.type.shape[1])


def _since(b: Builder, decay: Value, values: Value, v: Value, n: int) -> Value:
    """The cumulative log decay within each chunk, including each token: [r, g, n], or [r, 1, n] if constant"""
    rows, dtype = values.type.shape[0], accumulation_dtype(v.type.dtype)
    if decay.type.rank == v.type.rank - 1:
        flat = b.reshape(decay, shape=(rows, v.type.shape[-2], 1))
        chunks = chunked(b, flat, n)
        return b.cumsum(b.reshape(chunks, shape=chunks.type.shape[:3]), axis=2)
    zeros = b.broadcast(b.constant(0.0, dtype), shape=v.type.shape[: v.type.rank - 2])
    per_head = b.add(zeros, decay)  # materialised: PyTorch cannot export a view of a broadcast for any batch
    tokens = b.add(b.iota(length=n, dtype=dtype), 1.0)
    return b.mul(b.reshape(per_head, shape=(rows, 1, 1)), tokens)


def local_part(
    b: Builder,
    q: Value,
    k: Value,
    v: Value,
    bias: Value,
    documents: Value | None,
    causal: bool,
    overlap: bool,
    kernel: str,
) -> Value:
    """Quadratic attention within each chunk, and with `overlap` also to the chunk before (section 3.2.1)."""
    if overlap:
        if kernel == "softmax" and documents is None:  # mask the zeros before the first chunk
            documents = b.broadcast(b.constant(True, DType.BOOL), shape=q.type.shape[:3])
        span, chunk = bias.type.shape[0], q.type.shape[2]
        k, v = (b.concat(_shifted(b, x), x, axis=2) for x in (k, v))
        bias = b.slice(bias, axis=0, start=chunk, stop=span)
        documents = None if documents is None else b.concat(_shifted(b, documents), documents, axis=2)
    return b.quadratic_attention(q, k, v, bias, documents, causal=causal, kernel=kernel)


def _shifted(b: Builder, x: Value) -> Value:
    """[b, g, n, *], shifted by one chunk, with zeros for the first chunk."""
    return b.slice(b.pad(x, axis=1, before=1), axis=1, stop=x.type.shape[1])


def tokens_of_chunks(b: Builder, length: Size, n: int, chunks: Size) -> Value:
    """bool [g, 1, m]: whether position m of a chunk is a token, not padding of the last chunk

    The first position counts in a row without tokens too. PyTorch computes one chunk there, whose softmax needs a key.
    """
    count = b.maximum(b.size(value=length), 1)
    return b.reshape(b.less(b.iota(length=chunks * n), count), shape=(chunks, 1, n))


def padding_mask(b: Builder, v: Value, chunk: int, causal: bool, kernel: str) -> Value | None:
    """bool [b, t], all true, if softmax needs a mask for the zeros that pad the last chunk; otherwise None"""
    if kernel != "softmax" or causal or divides(chunk, v.type.shape[-2]):
        return None
    return b.broadcast(b.constant(True, DType.BOOL), shape=(v.type.shape[0], v.type.shape[-2]))


def _products(
    b: Builder,
    q: Value,
    k: Value,
    bias: Value | None,
    since: Value | None,
    documents: Value | None,
    causal: bool,
) -> Value:
    """q k^T + bias within chunks, with decay"""
    n = q.type.shape[2]
    scores = b.matmul(q, k, transpose_y=True)
    scores = scores if bias is None else b.add(scores, bias)
    if since is not None:
        ago = b.sub(column(b, since), b.reshape(since, shape=(*since.type.shape[:2], 1, n)))
        scores = scaled(b, scores, b.exp(b.select(until_now(b, n), ago, float("-inf"))))
    elif causal:
        scores = b.select(until_now(b, n), scores, 0.0)
    if documents is not None:
        numbers = document_numbers(b, documents, n)
        token = column(b, are_tokens(b, numbers))
        scores = b.select(b.logical_and(token, of_one_document(b, numbers, n)), scores, 0.0)
    return scores


def _weighed(
    b: Builder, q: Value, k: Value, v: Value, length: Size, documents: Value | None, causal: bool, kernel: str
) -> Value:
    """kernel(q k^T) v within chunks"""
    n, chunks = q.type.shape[2], q.type.shape[1]
    assert isinstance(n, int)
    scores = b.matmul(q, k, transpose_y=True)
    if causal:
        scores = b.select(until_now(b, n), scores, float("-inf"))
    elif documents is None and not divides(n, length):
        scores = b.select(tokens_of_chunks(b, length, n, chunks), scores, float("-inf"))
    if documents is None:
        (weights,) = b.results(kernel, scores)
        return b.matmul(weights, v)
    numbers = document_numbers(b, documents, n)
    (weights,) = b.results(kernel, mask_scores(b, scores, numbers))
    return clear_padding(b, b.matmul(weights, v), numbers)
