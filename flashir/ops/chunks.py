"""Sequences cut into chunks, [b, t, *] -> [b, g, n, *], and which chunks see each other by their segments (Code 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashir.errors import IRError
from flashir.ir.dims import Size, ceildiv
from flashir.ir.types import DType, Shape, TensorType, shape_text
from flashir.ops.shape import pad_to_multiple

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Value


def check_segments(segment_ids: TensorType, shape: Shape) -> None:
    """Raises IRError unless there is one whole number for each token."""
    if segment_ids.dtype not in (DType.I32, DType.I64) or segment_ids.shape != shape or len(shape) != 2:
        raise IRError(f"segment_ids must be whole numbers of shape {shape_text(shape)}, got {segment_ids}")


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
