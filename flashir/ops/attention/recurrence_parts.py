"""The parts of the chunked recurrence over chunks [r, g, n, *]: what is local, what comes from other chunks, decay.

With c the logarithm of what decays from the start of a chunk up to each token, and with it, a key m fades by
exp(c_t - c_m) on its way to a query t of the same chunk. Between chunks that is cut in three, none above 1:

    queries  exp(c_t)                 from the start of their chunk
    keys     exp(c_n - c_m)           to the end of theirs
    states   exp(c_n), a chunk each   in `linear_attention`

Axes: r rows, b * h where there are heads, t length, g chunks, n and m within a chunk, s key, e value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashir.ir.dims import Size, divides
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
from flashir.ops.decode.context import column, under_heads
from flashir.ops.functions.norm import accumulation_dtype, scaled
from flashir.ops.layers.multi_head import rows_of_heads

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Value


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
    """What is on of local and global, over [r, g, n, *]; zeros that pad the last chunk add nothing."""
    length, n = v.type.shape[-2], tile if chunk is None else chunk
    if chunk is None:
        assert lin_q is not None and lin_k is not None
        if documents is not None and not are_packed(documents.type):  # padding asks for nothing, and adds nothing
            token = column(b, are_tokens(b, document_numbers(b, documents, length)))
            token = under_heads(b, token, v.type.rank)
            lin_q, lin_k, documents = b.select(token, lin_q, 0.0), b.select(token, lin_k, 0.0), None
        if not causal and documents is None:
            return b.matmul(lin_q, b.matmul(lin_k, v, transpose_x=True))
        if causal:  # a token's own chunk is the local part
            quad_q, quad_k, kernel = lin_q, lin_k, "identity"
    given = dict.fromkeys(x for x in (quad_q, quad_k, lin_q, lin_k, v) if x is not None)
    rows = {x: x if x.type.rank == 3 else rows_of_heads(b, x) for x in given}
    cut = {x: chunked(b, rows[x], n) for x in given}
    values = cut[v]
    chunks = values.type.shape[1]
    near = told_of_padding(b, v, n, causal, kernel) if documents is None and bias is not None else None
    near, documents = (
        None if x is None else chunked_documents(b, _of_rows(b, x, v), n, chunks) for x in (near, documents)
    )
    visible = overlapping_chunks(b, segment_ids, n, chunks, documents) if lin_q is not None else None
    since = None if decay is None else _since(b, decay, values, v, n)
    made, weights = [], None
    if quad_q is not None and quad_k is not None:
        q, k = cut[quad_q], cut[quad_k]
        if kernel == "identity":
            weights = _products(b, q, k, bias, since if chunk is None else None, documents, causal)
        elif bias is not None:
            told = documents if near is None else near
            made.append(local_part(b, q, k, values, bias, told, causal, overlap, kernel))
        else:
            made.append(_weighed(b, q, k, values, length, documents, causal, kernel))
    if lin_q is not None and lin_k is not None:
        q, k, fade = cut[lin_q], cut[lin_k], None
        if since is not None:
            end = b.slice(since, axis=2, start=n - 1, stop=n)
            q, k = scaled(b, q, column(b, b.exp(since))), scaled(b, k, column(b, b.exp(b.sub(end, since))))
            fade = b.reshape(end, shape=end.type.shape[:2])
        sums = {"causal": causal, "cumsum": cumsum, "lin_norm": lin_norm}
        made.append(b.linear_attention(q, k, values, visible, None, documents, fade, **sums))
    if weights is not None:  # after the sums, whose states are as large
        made.insert(0, b.matmul(weights, values))
    out = unchunked(b, made[0] if len(made) == 1 else b.add(*made), length)
    return out if v.type.rank == 3 else b.reshape(out, shape=v.type.shape)


def _of_rows(b: Builder, documents: Value, v: Value) -> Value:
    """[b, t] -> [r, t]"""
    return documents if v.type.rank == 3 else for_each_head(b, documents, v.type.shape[1])


def _since(b: Builder, decay: Value, values: Value, v: Value, n: int) -> Value:
    """The log of what decays from the start of a chunk up to each token, with it: [r, g, n], or [r, 1, n] a constant"""
    rows, dtype = values.type.shape[0], accumulation_dtype(v.type.dtype)
    if decay.type.rank == v.type.rank - 1:
        flat = b.reshape(decay, shape=(rows, v.type.shape[-2], 1))
        chunks = chunked(b, flat, n)
        return b.cumsum(b.reshape(chunks, shape=chunks.type.shape[:3]), axis=2)
    zeros = b.broadcast(b.constant(0.0, dtype), shape=v.type.shape[: v.type.rank - 2])
    each = b.add(zeros, decay)  # numbers in memory: PyTorch exports no view of a broadcast for any batch
    tokens = b.add(b.iota(length=n, dtype=dtype), 1.0)
    return b.mul(b.reshape(each, shape=(rows, 1, 1)), tokens)


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
    """Quadratic attention within each chunk; with `overlap`, to the chunk before as well (section 3.2.1)."""
    if overlap:
        if kernel == "softmax" and documents is None:  # it would count what stands before the first chunk
            documents = b.broadcast(b.constant(True, DType.BOOL), shape=q.type.shape[:3])
        span, chunk = bias.type.shape[0], q.type.shape[2]
        k, v = (b.concat(_one_on(b, x), x, axis=2) for x in (k, v))
        bias = b.slice(bias, axis=0, start=chunk, stop=span)
        documents = None if documents is None else b.concat(_one_on(b, documents), documents, axis=2)
    return b.quadratic_attention(q, k, v, bias, documents, causal=causal, kernel=kernel)


def _one_on(b: Builder, x: Value) -> Value:
    """[b, g, n, *], each chunk in the place of the next; zeros, which add nothing, in the first."""
    return b.slice(b.pad(x, axis=1, before=1), axis=1, stop=x.type.shape[1])


def tokens_of_chunks(b: Builder, length: Size, n: int, chunks: Size) -> Value:
    """bool [g, 1, m]: whether position m of a chunk is a token, not what pads the last one"""
    return b.reshape(b.less(b.iota(length=chunks * n), b.size(value=length)), shape=(chunks, 1, n))


def told_of_padding(b: Builder, v: Value, chunk: int, causal: bool, kernel: str) -> Value | None:
    """bool [b, t], where a softmax would count zeros that pad the last chunk; else none"""
    if kernel != "softmax" or causal or divides(chunk, v.type.shape[1]):
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
    """q k^T + bias within chunks, less what decays"""
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
