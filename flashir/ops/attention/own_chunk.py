"""Linear attention within each chunk: the global part of models that do not sum over chunks.

Axes: b batch, t length, g chunks, n within a chunk, s key, e expanded.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.ir.builder import Builder
from flashir.ir.graph import Value
from flashir.ops.attention.chunks import chunked, chunked_documents, unchunked
from flashir.ops.attention.documents import clear_padding, document_numbers, of_one_document, ref_numbers, ref_seen


def own_part(b: Builder, q: Value, k: Value, v: Value, documents: Value | None, chunk: int, lin_norm: str) -> Value:
    """Linear attention within each chunk, [b, t, *]: q (k^T v), divided by the chunk size unless lin_norm is none"""
    length = v.type.shape[1]
    queries, keys, values = (chunked(b, x, chunk) for x in (q, k, v))
    keys = keys if lin_norm == "none" else b.mul(keys, 1.0 / chunk)
    if documents is None:
        out = b.matmul(queries, b.matmul(keys, values, transpose_x=True))
    else:  # a chunk may hold several documents
        numbers = document_numbers(b, chunked_documents(b, documents, chunk, values.type.shape[1]), chunk)
        same = of_one_document(b, numbers, chunk)
        scores = b.select(same, b.matmul(queries, keys, transpose_y=True), 0.0)
        out = clear_padding(b, b.matmul(scores, values), numbers)
    return unchunked(b, out, length)


def ref_own(q: Any, k: Any, v: Any, documents: Any, chunk: int) -> Any:
    """`own_part` in numpy."""
    out = np.zeros_like(v)
    for start in range(0, v.shape[1], chunk):
        at = slice(start, start + chunk)
        seen = 1 if documents is None else ref_seen(ref_numbers(documents, v.shape[1]), v.shape[1], 3)[:, at, at]
        out[:, at] = (q[:, at] @ k[:, at].swapaxes(1, 2) * seen) @ v[:, at]
    return out
