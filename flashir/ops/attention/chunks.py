"""Splits sequences into chunks, [b, t, *] -> [b, g, n, *], and masks chunks by their segments (Code 7)."""

from __future__ import annotations

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.dims import Size, ceildiv
from flashir.ir.graph import Value
from flashir.ir.types import DType, Shape, TensorType, shape_text
from flashir.ops.attention.documents import are_packed, are_tokens, check_documents
from flashir.ops.primitive.shape import pad_to_multiple

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


def check_segments(segment_ids: TensorType, shape: Shape) -> None:
    """Raises IRError unless the segment ids are integers [b, t]."""
    if segment_ids.dtype not in (DType.I32, DType.I64) or segment_ids.shape != shape or len(shape) != 2:
        raise IRError(f"segment_ids must be whole numbers of shape {shape_text(shape)}, got {segment_ids}")


def check_segments_and_documents(
    segment_ids: TensorType | None, documents: TensorType | None, v: TensorType, valid: Size | None = None
) -> None:
    """Raises IRError unless segment ids and documents are absent or fit v [b, t, e]; `valid` is t without padding."""
    if segment_ids is not None:
        check_segments(segment_ids, (v.shape[0], *segment_ids.shape[1:2]) if valid is None else (v.shape[0], valid))
    check_documents(documents, v.shape[0], v.shape[1] if valid is None else valid)
    if segment_ids is not None and documents is not None and are_packed(documents):
        raise IRError("packed documents and segment_ids exclude each other: give one of them")


def chunked_documents(b: Builder, documents: Value, chunk: int, chunks: Size) -> Value:
    """[b, t] -> [b, g, chunk], with padding at the end"""
    batch, length = documents.type.shape
    whole = chunks * chunk
    padded = documents if length == whole else b.pad(documents, axis=1, after=whole - length)
    return b.reshape(padded, shape=(batch, chunks, chunk))


def chunked(b: Builder, x: Value, chunk: int) -> Value:
    """[b, t, *] -> [b, g, chunk, *], with zeros at the end"""
    x = pad_to_multiple(b, x, 1, chunk)
    batch, length, *rest = x.type.shape
    return b.reshape(x, shape=(batch, ceildiv(length, chunk), chunk, *rest))


def unchunked(b: Builder, x: Value, length: Size) -> Value:
    """[b, g, n, *] -> [b, t, *], without padding"""
    batch, chunks, n, *rest = x.type.shape
    flat = b.reshape(x, shape=(batch, chunks * n, *rest))
    return flat if chunks * n == length else b.slice(flat, axis=1, stop=length)


def overlapping_chunks(
    b: Builder, segment_ids: Value | None, chunk: int, chunks: Size, documents: Value | None = None
) -> Value | None:
    """[b, t] -> bool [b, g, h]: whether the id ranges of two chunks overlap (Code 7)

    Padding of the last chunk takes the id of its first token, so that it does not widen the range.
    With documents [b, g, n] the ranges are those of tokens, and a chunk without tokens overlaps with none.
    """
    if segment_ids is None:
        return None
    batch, length = segment_ids.type.shape
    ids = b.reshape(b.pad(segment_ids, axis=1, after=chunks * chunk - length), shape=(batch, chunks, chunk))
    if documents is not None:
        token = documents if not are_packed(documents.type) else are_tokens(b, documents)
        low, high = (b.select(token, ids, b.constant(end, ids.type.dtype)) for end in (INT32_MAX, INT32_MIN))
    elif chunks * chunk != length:
        token = b.less(b.iota(length=chunks * chunk), b.size(value=length))
        low = high = b.select(b.reshape(token, shape=(chunks, chunk)), ids, b.slice(ids, axis=2, stop=1))
    else:
        low = high = ids
    first, last = b.reduce_min(low, axes=(2,)), b.reduce_max(high, axes=(2,))

    def row(x: Value) -> Value:
        return b.reshape(x, shape=(batch, chunks, 1))

    def column(x: Value) -> Value:
        return b.reshape(x, shape=(batch, 1, chunks))

    return b.logical_and(b.less_equal(row(first), column(last)), b.less_equal(column(first), row(last)))
