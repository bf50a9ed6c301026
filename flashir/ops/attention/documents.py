"""Packed documents and padding: which tokens attend to each other.

An attention op takes one optional operand for both, `documents`, in one of two forms:

    bool [b, t]   true for a token, false for padding. All tokens of a row are one document.
    i32 [b, t]    the number of the document of each token, from 1 and non-decreasing along a row;
                  minus that number for padding. The op `documents` computes it from segment ids and a mask.

A token attends only to tokens of its own document. Nothing attends to padding, and the result for padding is 0.
`documents` may be shorter than the tokens: positions after its end are padding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import per_input
from flashir.ir.dims import Size
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, define_op, sample
from flashir.ir.traits import each_row_alone
from flashir.ir.types import DType, TensorType
from flashir.ops.decode.context import column, equal, with_rank

MASK_WEIGHT = 4.0  # operations per score: two comparisons, their conjunction, a select


def check_documents(documents: TensorType | None, batch: Size, length: Size) -> None:
    """Raises IRError unless documents are absent, or bool or i32 [b, t] and no longer than the tokens."""
    if documents is None:
        return
    fits = documents.rank == 2 and documents.shape[0] == batch and not _longer(documents.shape[1], length)
    if not fits or documents.dtype not in (DType.BOOL, DType.I32):
        raise IRError(f"documents must be bool or i32 of shape [{batch}, {length}], got {documents}")


def _longer(size: Size, length: Size) -> bool:
    return isinstance(size, int) and isinstance(length, int) and size > length


def are_packed(documents: TensorType) -> bool:
    """Whether a row may hold several documents. With a mask alone it holds one."""
    return documents.dtype is not DType.BOOL


def document_numbers(b: Builder, documents: Value, length: Size) -> Value:
    """i32 [.., t]: equal numbers for tokens of one document, less than 1 for padding.

    [b, t'] bool or i32 -> i32 [b, t], t' <= t
    """
    if not are_packed(documents.type):
        documents = b.select(documents, b.constant(1, DType.I32), b.constant(-1, DType.I32))
    axis = documents.type.rank - 1
    present = documents.type.shape[axis]
    return documents if present == length else b.pad(documents, axis=axis, after=length - present)


def are_tokens(b: Builder, numbers: Value) -> Value:
    """bool, in the shape of the numbers: false for padding"""
    return b.less(b.constant(0, DType.I32), numbers)


def of_one_document(b: Builder, numbers: Value, queries: Size) -> Value:
    """bool [.., n, m]: whether key m has the number of query n. The queries are the last n of m positions.

    Padding matches other padding, so that no row is empty: a softmax over an empty row is NaN.
    """
    *lead, m = numbers.type.shape
    own = numbers if queries == m else b.slice(numbers, axis=len(lead), start=m - queries, stop=m)
    return equal(b, column(b, own), b.reshape(numbers, shape=(*lead, 1, m)))


def mask_scores(b: Builder, scores: Value, numbers: Value) -> Value:
    """Scores [.., n, m], -inf if query and key are of different documents; numbers [.., m] may lack the head axis"""
    same = of_one_document(b, numbers, scores.type.shape[-2])
    return b.select(with_rank(b, same, scores.type.rank), scores, float("-inf"))


def clear_padding(b: Builder, x: Value, numbers: Value) -> Value:
    """[.., n, e], 0 if the query is padding. The queries are the last n of the numbered positions"""
    n, axis = x.type.shape[-2], numbers.type.rank - 1
    m = numbers.type.shape[axis]
    own = numbers if n == m else b.slice(numbers, axis=axis, start=m - n, stop=m)
    return b.select(with_rank(b, column(b, are_tokens(b, own)), x.type.rank), x, 0.0)


def document_lengths(b: Builder, documents: Value, length: Size, dtype: DType) -> Value:
    """[b, t], or [b, 1] if a row is one document: the number of tokens in the document of each token, at least 1"""
    if are_packed(documents.type):
        same = of_one_document(b, document_numbers(b, documents, length), length)
    else:
        same = b.reshape(documents, shape=(documents.type.shape[0], 1, documents.type.shape[1]))
    count = b.reduce_sum(b.cast(same, dtype=DType.I32), axes=(2,))
    return b.maximum(b.cast(count, dtype=dtype), 1.0)


def end_of_chunks(b: Builder, documents: Value, *, first: bool = False) -> Value:
    """i32 [.., n] -> [.., 1]: the last or first document number of each chunk, also if that position is padding"""
    *lead, n = documents.type.shape
    start, stop = (0, 1) if first else (n - 1, n)
    end = b.slice(documents, axis=len(lead), start=start, stop=stop)
    return b.maximum(end, b.mul(end, -1))


def of_last_document(b: Builder, documents: Value, *, first: bool = False) -> Value:
    """bool [.., n]: which positions of a chunk are tokens of its last, or first, document

    Only these documents of a chunk can continue in later, or earlier, chunks.
    """
    if not are_packed(documents.type):
        return documents
    end = end_of_chunks(b, documents, first=first)
    return b.logical_and(equal(b, documents, end), are_tokens(b, documents))


def any_of(b: Builder, x: Value) -> Value:
    """bool [.., n] -> bool [..]"""
    return b.less(b.constant(0, DType.I32), b.reduce_sum(b.cast(x, dtype=DType.I32), axes=(x.type.rank - 1,)))


def for_each_head(b: Builder, documents: Value, heads: Size) -> Value:
    """[b, t] -> [b * h, t], the layout of heads as rows"""
    batch, length = documents.type.shape
    spread = b.broadcast(b.reshape(documents, shape=(batch, 1, length)), shape=(batch, heads, length))
    return b.reshape(spread, shape=(batch * heads, length))


def mean_of(b: Builder, x: Value, own: Value) -> Value:
    """[b, g, n, s] -> [b, g, s], the mean over the positions in `own` [b, g, n]; 0 if there is none"""
    count = b.reduce_sum(b.cast(own, dtype=DType.I32), axes=(2,))
    total = b.reduce_sum(b.select(column(b, own), x, 0.0), axes=(2,))
    return b.div(total, column(b, b.cast(b.maximum(count, 1), dtype=x.type.dtype)))


def ref_last_document(documents: Any, *, first: bool = False) -> Any:
    """`of_last_document` in numpy, for one chunk [n]."""
    if documents.dtype == bool:
        return documents.copy()
    return documents == abs(documents[0 if first else -1])


def ref_numbers(documents: Any, length: int) -> Any:
    """The document number of each of `length` positions, 0 for padding."""
    numbers = np.zeros((*documents.shape[:-1], length), int)
    present = documents[..., :length]
    numbers[..., : present.shape[-1]] = np.maximum(present.astype(int), 0)
    return numbers


def ref_seen(numbers: Any, queries: int, rank: int) -> Any:
    """`of_one_document` in numpy, but padding sees nothing. Head axes are inserted up to this rank."""
    own = numbers[..., numbers.shape[-1] - queries :]
    seen = (own[..., :, None] == numbers[..., None, :]) & (own[..., :, None] > 0)
    return seen.reshape(*seen.shape[:-2], *(1,) * (rank - seen.ndim), *seen.shape[-2:])


def ref_weights(kernel: Any, scores: Any, seen: Any) -> Any:
    """kernel(scores) where seen, else 0. A query that sees nothing has weights 0 with every kernel."""
    some = seen.any(-1, keepdims=True)
    return np.where(some, kernel(np.where(seen | ~some, np.where(some, scores, 0), -np.inf)), 0)


def ref_lengths(documents: Any, length: int) -> Any:
    """`document_lengths` in numpy, [b, t]."""
    return np.maximum(ref_seen(ref_numbers(documents, length), length, 3).sum(-1), 1)


def _infer(segment_ids: TensorType, mask: TensorType | None = None) -> TensorType:
    if segment_ids.dtype not in (DType.I32, DType.I64) or segment_ids.rank != 2:
        raise IRError(f"segment_ids must be whole numbers [b, t], got {segment_ids}")
    if mask is not None and mask != segment_ids.with_dtype(DType.BOOL):
        raise IRError(f"mask must be {segment_ids.with_dtype(DType.BOOL)}, got {mask}")
    return segment_ids.with_dtype(DType.I32)


def _ref(segment_ids: Any, mask: Any = None) -> Any:
    numbers = np.ones(segment_ids.shape, np.int64)
    for t in range(1, segment_ids.shape[1]):
        numbers[:, t] = numbers[:, t - 1] + (segment_ids[:, t] != segment_ids[:, t - 1])
    return numbers if mask is None else np.where(mask, numbers, -numbers)


def _decompose(b: Builder, segment_ids: Value, mask: Value | None = None) -> Value:
    """1 + the number of positions up to this one whose id differs from the previous id"""
    length = segment_ids.type.shape[1]
    before = b.slice(b.pad(segment_ids, axis=1, before=1), axis=1, stop=length)
    begins = b.minimum(b.iota(length=length), b.constant(1, DType.I32))  # 0 for the first position
    begins = b.select(equal(b, segment_ids, before), b.constant(0, DType.I32), begins)
    numbers = b.add(b.cumsum(begins, axis=1), b.constant(1, DType.I32))
    return numbers if mask is None else b.select(mask, numbers, b.mul(numbers, -1))


documents = define_op(
    OpDef(
        "documents",
        ("segment_ids", "mask?"),
        infer=_infer,
        ref=_ref,
        cost=per_input(6),
        samples=(sample("i32[2, 7]", high=3), sample("i64[2, 7]", "bool[2, 7]", high=3), sample("i32[2, 0]")),
        decompose=_decompose,
        ignores_padding=each_row_alone,
        doc="the number of each token's document, a run of equal ids; minus that number for padding by the mask",
    )
)
