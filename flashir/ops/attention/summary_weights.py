"""Weights between chunks from their summaries (Appendix A): a_gh = relu2(q_g k_h + b_gh).

Axes: b batch, g and h chunks, n within a chunk, s key.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import Contraction, Cost, Types, moved
from flashir.ir.dims import Size
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, define_op, flag, sample, size
from flashir.ir.types import DType, TensorType
from flashir.ops.attention.documents import are_packed, mean_of, of_last_document, ref_last_document
from flashir.ops.attention.quadratic import check_bias
from flashir.ops.functions.norm import accumulation_dtype, as_dtype
from flashir.ops.primitive.scan import strictly_lower


def _infer(
    q: TensorType, k: TensorType, bias: TensorType, documents: TensorType | None = None, *, causal: bool, **_: Any
) -> TensorType:
    if q != k or q.rank != 4 or not q.dtype.is_float:
        raise IRError(f"q and k must have the same type, [b, g, n, s], got {q} and {k}")
    check_bias(bias, q, q.shape[1], q.shape[1])
    if documents is not None:
        if documents.shape != q.shape[:3] or documents.dtype not in (DType.BOOL, DType.I32):
            raise IRError(f"documents must be bool or i32 of shape (b, g, n), got {documents}")
        if are_packed(documents) and not causal:
            raise IRError("summaries of whole chunks cannot separate packed documents in a bidirectional model")
    return TensorType(accumulation_dtype(q.dtype), (q.shape[0], q.shape[1], q.shape[1]))


def ref_summary_weights(
    q: Any, k: Any, bias: Any, documents: Any = None, *, causal: bool, tokens: int | None = None
) -> Any:
    """`summary_weights` in numpy, chunk by chunk."""
    batch, chunks, n, s = q.shape
    left = chunks * n if tokens is None else tokens
    means = np.zeros((2, batch, chunks, s))
    for g in range(chunks):
        present = min(max(left - g * n, 0), n)
        for row in range(batch):
            own = np.ones(n, bool) if documents is None else ref_last_document(documents[row, g])
            own[present:] = False
            if own.any():
                means[:, row, g] = q[row, g, own].mean(0), k[row, g, own].mean(0)
    out = np.zeros((batch, chunks, chunks))
    for g in range(chunks):
        for h in range(g if causal else chunks):
            query = means[0, :, g - 1] if causal else means[0, :, g]
            out[:, g, h] = np.maximum((query * means[1, :, h]).sum(-1) + bias[g, h], 0) ** 2
    return out


def _decompose(
    b: Builder,
    q: Value,
    k: Value,
    bias: Value,
    documents: Value | None = None,
    *,
    causal: bool,
    tokens: Size | None,
) -> Value:
    """relu2(mean(q) mean(k)^T + bias). If causal, the query of a chunk is the mean of the chunk before it"""
    chunks, dtype = q.type.shape[1], accumulation_dtype(q.type.dtype)
    own = None if documents is None else of_last_document(b, documents)
    q, k = (_means(b, as_dtype(b, x, dtype), tokens, own) for x in (q, k))
    if causal:  # its own mean would leak later tokens of the chunk
        q = b.slice(b.pad(q, axis=1, before=1), axis=1, stop=chunks)
    weights = b.relu2(b.add(b.matmul(q, k, transpose_y=True), as_dtype(b, bias, dtype)))
    return b.mul(weights, strictly_lower(b, chunks, dtype)) if causal else weights


def _means(b: Builder, x: Value, tokens: Size | None, own: Value | None) -> Value:
    """[b, g, n, s] -> [b, g, s], the mean over tokens, or over the positions in `own`"""
    _, chunks, n, _ = x.type.shape
    if own is not None:
        return mean_of(b, x, own)
    if tokens is None or tokens == chunks * n:
        return b.reduce_mean(x, axes=(2,))
    token = b.reshape(b.less(b.iota(length=chunks * n), b.size(value=tokens)), shape=(chunks, n))
    count = b.reduce_sum(b.cast(token, dtype=DType.I32), axes=(1,), keepdims=True)
    total = b.reduce_sum(b.select(b.reshape(token, shape=(chunks, n, 1)), x, 0.0), axes=(2,))
    return b.div(total, b.cast(b.maximum(count, 1), dtype=x.type.dtype))


def _cost(ins: Types, outs: Types, causal: bool, tokens: int | None) -> Cost:
    q, traffic = ins[0], moved(ins, outs)
    assert q is not None
    batch, g, _, s = q.sizes
    return Cost(2.0 * q.count, traffic.read, traffic.written, contractions=(Contraction(batch, g, s, g),))


summary_weights = define_op(
    OpDef(
        "summary_weights",
        ("q", "k", "bias", "documents?"),
        infer=_infer,
        ref=ref_summary_weights,
        cost=_cost,
        samples=tuple(
            sample("f32[2, 4, 3, 6]", "f32[2, 4, 3, 6]", "f32[4, 4]", causal=causal, tokens=tokens)
            for causal in (True, False)
            for tokens in (None, 10, 7)
        )
        + tuple(
            sample("f32[2, 4, 3, 6]", "f32[2, 4, 3, 6]", "f32[4, 4]", "bool[2, 4, 3]", causal=causal)
            for causal in (True, False)
        ),
        attrs={
            "causal": flag(doc="weights of earlier chunks only, with the chunk before as query"),
            "tokens": size(None, doc="the number of tokens; later positions are padding"),
        },
        decompose=_decompose,
        doc="relu2(q k^T + bias) of the means of chunks, [b, g, n, s] -> [b, g, g]",
        source="Appendix A",
    )
)
