"""Summaries of chunks: their means, and rotary positions for them. The combiner attends to them.

Axes: b batch, h heads, t length, g chunks, d width, s key.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import elementwise, per_input
from flashir.ir.dims import Size, ceildiv, divides
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, define_op, flag, integer, sample
from flashir.ir.streaming import States, StreamingRule
from flashir.ir.types import TensorType
from flashir.ops.attention.chunks import chunked, chunked_documents
from flashir.ops.attention.documents import check_documents, mean_of, of_last_document, ref_last_document
from flashir.ops.decode.context import DecodeContext, column, equal
from flashir.ops.functions.norm import accumulation_dtype, as_dtype, scaled
from flashir.ops.functions.position import ref_rope


def _infer_means(x: TensorType, documents: TensorType | None = None, *, chunk: int, **_: Any) -> TensorType:
    if x.rank != 3 or not x.dtype.is_float:
        raise IRError(f"the operand must be float [b, t, d], got {x}")
    check_documents(documents, *x.shape[:2])
    return x.with_shape((x.shape[0], ceildiv(x.shape[1], chunk), x.shape[2]))


def _ref_means(x: Any, documents: Any = None, *, chunk: int, causal: bool, first: bool) -> Any:
    starts = range(0, x.shape[1], chunk)
    if documents is not None:
        return ref_document_means(x, documents, chunk, first=first)
    spans = [x[:, at : at + chunk] for at in starts]
    means = [span.sum(1) / (chunk if causal else span.shape[1]) for span in spans]
    return np.stack(means, 1) if means else x


def ref_document_means(x: Any, documents: Any, chunk: int, *, first: bool = False) -> Any:
    """`chunk_means` with documents, in numpy: the mean over the tokens of one document of each chunk."""
    batch, length, width = x.shape
    whole = np.zeros((batch, length), documents.dtype)
    whole[:, : documents.shape[1]] = documents
    means = np.zeros((batch, -(-length // chunk), width))
    for row in range(batch):
        for g, at in enumerate(range(0, length, chunk)):
            part = np.zeros(chunk, whole.dtype)
            part[: min(chunk, length - at)] = whole[row, at : at + chunk]
            own = np.flatnonzero(ref_last_document(part, first=first) & (part > 0))
            means[row, g] = x[row, at + own].mean(0) if own.size else 0
    return means


def _decompose_means(
    b: Builder, x: Value, documents: Value | None = None, *, chunk: int, causal: bool, first: bool
) -> Value:
    """[b, t, d] -> [b, g, d], the mean over the tokens of each chunk"""
    length = x.type.shape[1]
    if documents is not None:
        values = as_dtype(b, chunked(b, x, chunk), accumulation_dtype(x.type.dtype))
        documents = chunked_documents(b, documents, chunk, values.type.shape[1])
        return as_dtype(b, mean_of(b, values, of_last_document(b, documents, first=first)), x.type.dtype)
    means = b.reduce_mean(chunked(b, x, chunk), axes=(2,))
    if causal or divides(chunk, length):
        return means
    chunks = means.type.shape[1]
    dtype = accumulation_dtype(x.type.dtype)
    count = b.maximum(b.size(value=length, dtype=dtype), 1)  # PyTorch computes one chunk of a row without tokens
    left = b.sub(count, b.mul(b.iota(length=chunks, dtype=dtype), chunk))
    share = b.reshape(b.mul(b.reciprocal(b.minimum(left, chunk)), chunk), shape=(chunks, 1))
    return scaled(b, means, share)


def _means_after(now: DecodeContext, x: Value, *, chunk: int, **_: Any) -> States:
    """`open`: the sum over the tokens of the incomplete chunk, [b, d]"""
    b = now.b
    of_token = b.floor_div(b.iota(length=now.length), divisor=chunk)
    own = equal(b, of_token, column(b, b.floor_div(now.seen, divisor=chunk)))
    return {"open": _sum_of(now, x, own)}


def _means_step(now: DecodeContext, states: States, x: Value, *, chunk: int, **_: Any) -> tuple[Value, States]:
    """[b, t, d] -> [b, g, d], the means so far of the current chunk and of later ones that the tokens overlap"""
    b, dtype = now.b, accumulation_dtype(x.type.dtype)
    touched = ceildiv(now.length + (chunk - 1), chunk)
    first, of_token = b.floor_div(now.seen, divisor=chunk), b.floor_div(now.positions(), divisor=chunk)
    number = b.reshape(b.sub(of_token, column(b, first)), shape=(now.batch, 1, now.length))
    which = b.cast(equal(b, column(b, b.iota(length=touched)), number), dtype=dtype)
    before = b.pad(b.reshape(states["open"], shape=(now.batch, 1, x.type.shape[2])), axis=1, after=touched - 1)
    sums = b.add(b.matmul(which, as_dtype(b, now.only_own(x), dtype)), before)
    last = b.floor_div(now.after(), divisor=chunk)
    carried = b.select(column(b, equal(b, first, last)), states["open"], 0.0)
    after = b.add(carried, _sum_of(now, x, equal(b, of_token, column(b, last))))
    return as_dtype(b, b.mul(sums, 1 / chunk), x.type.dtype), {"open": after}


def _sum_of(now: DecodeContext, x: Value, chosen: Value) -> Value:
    """[b, t, d], bool [b, t] -> [b, d], the sum of the chosen tokens, at least in float32"""
    b = now.b
    wide = as_dtype(b, now.only_own(x), accumulation_dtype(x.type.dtype))
    return b.reduce_sum(b.select(column(b, chosen), wide, 0.0), axes=(1,))


chunk_means = define_op(
    OpDef(
        "chunk_means",
        ("x", "documents?"),
        infer=_infer_means,
        ref=_ref_means,
        cost=per_input(1),
        samples=tuple(
            sample(f"f32[2, {t}, 4]", *documents, chunk=chunk, causal=causal)
            for t, chunk, *documents in (
                *((7, 3), (6, 3), (2, 5), (0, 3)),
                *((7, 3, "bool[2, 7]"), (7, 3, "bool[2, 6]"), (0, 3, "bool[2, 0]")),
            )
            for causal in (True, False)
        ),
        attrs={
            "chunk": integer(least=1),
            "causal": flag(doc="divide the sum of an incomplete last chunk by the chunk size too, as nothing sees it"),
            "first": flag(False, doc="the mean of the first document of a chunk, instead of the last"),
        },
        decompose=_decompose_means,
        stream=StreamingRule(_means_step, _means_after),
        doc="the mean of each chunk of tokens, or of one document in it, [b, t, d] -> [b, g, d]",
    )
)


def _infer_middle(x: TensorType, chunk: int) -> TensorType:
    last = x.shape[-1] if x.rank == 4 else 1
    if not isinstance(last, int) or last % 2 or not x.dtype.is_float:
        raise IRError(f"the operand must be float [b, h, g, s] with s even, got {x}")
    return x


def _ref_middle(x: Any, chunk: int) -> Any:
    spread = np.repeat(x, chunk, axis=2)  # at every position of its chunk; only the middle one is used
    return ref_rope(spread, 2)[:, :, chunk // 2 :: chunk]


def _decompose_middle(b: Builder, x: Value, chunk: int) -> Value:
    """[b, h, g, s], rotated by the position g * chunk + chunk // 2"""
    chunks, s = x.type.shape[2:]
    assert isinstance(s, int)
    tables = b.results("sinusoid", length=chunks * chunk, half=s // 2, dtype=accumulation_dtype(x.type.dtype))
    middles = (
        b.slice(b.reshape(table, shape=(chunks, chunk, s // 2)), axis=1, start=chunk // 2, stop=chunk // 2 + 1)
        for table in tables
    )
    return _rotated(b, x, *(b.reshape(middle, shape=(chunks, s // 2)) for middle in middles))


def _middle_step(now: DecodeContext, states: States, x: Value, chunk: int) -> tuple[Value, States]:
    """The same, from the chunk of the next token on"""
    b = now.b
    touched, s = x.type.shape[2:]
    assert isinstance(s, int)
    numbers = b.add(column(b, b.floor_div(now.seen, divisor=chunk)), b.iota(length=touched))
    tables = b.results(
        "sinusoid_at", b.add(b.mul(numbers, chunk), chunk // 2), half=s // 2, dtype=accumulation_dtype(x.type.dtype)
    )
    spread: tuple[Size, ...] = (now.batch, 1, touched, s // 2)
    return _rotated(b, x, *(b.reshape(table, shape=spread) for table in tables)), {}


def _rotated(b: Builder, x: Value, sin: Value, cos: Value) -> Value:
    return as_dtype(b, b.turn(as_dtype(b, x, accumulation_dtype(x.type.dtype)), sin, cos), x.type.dtype)


rope_of_chunks = define_op(
    OpDef(
        "rope_of_chunks",
        ("x",),
        infer=_infer_middle,
        ref=_ref_middle,
        cost=elementwise(6),
        samples=(
            sample("f32[2, 3, 4, 6]", chunk=3),
            sample("f32[1, 2, 3, 4]", chunk=1),
            sample("f32[1, 2, 0, 4]", chunk=2),
        ),
        attrs={"chunk": integer(least=1)},
        decompose=_decompose_middle,
        stream=StreamingRule(_middle_step),
        doc="rotary embedding of summaries of chunks [b, h, g, s], at the middle of each chunk",
        source="Code 3",
    )
)
