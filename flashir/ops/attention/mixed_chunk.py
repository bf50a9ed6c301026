"""Mixed chunk attention (Code 8): quadratic within chunks, linear between them.

Axes: b batch, t length, g chunks, n and m positions within a chunk, s key, e expanded. Queries come scaled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.cost import Contraction, Cost, Types, moved
from flashir.ir.dims import divides
from flashir.ir.op import OPS, OpDef, define_op, flag, integer, sample
from flashir.ir.streaming import StreamingRule
from flashir.ir.types import DType, TensorType
from flashir.ops.attention.chunk_choices import CUMSUM
from flashir.ops.attention.chunks import check_told, chunked, chunked_documents, overlapping_chunks, unchunked
from flashir.ops.attention.documents import ref_numbers, ref_seen, ref_weights
from flashir.ops.attention.linear import LIN_NORM
from flashir.ops.attention.linear_documents import ref_between
from flashir.ops.attention.quadratic import KERNEL, KERNEL_WEIGHT, check_bias, check_heads
from flashir.ops.decode.chunk_state import mixed_after, mixed_step

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Value


def _infer_mixed(
    quad_q: TensorType,
    quad_k: TensorType,
    lin_q: TensorType,
    lin_k: TensorType,
    v: TensorType,
    bias: TensorType,
    segment_ids: TensorType | None = None,
    documents: TensorType | None = None,
    *,
    chunk: int,
    **_: Any,
) -> TensorType:
    check_heads(quad_q, quad_k, v)
    check_heads(lin_q, lin_k, v)
    if v.rank != 3:
        raise IRError(f"queries, keys and v must be [b, t, *], got {v}")
    check_bias(bias, v, chunk, chunk)
    check_told(segment_ids, documents, v)
    return v


def ref_mixed(
    quad_q: Any,
    quad_k: Any,
    lin_q: Any,
    lin_k: Any,
    v: Any,
    bias: Any,
    segment_ids: Any = None,
    documents: Any = None,
    *,
    chunk: int,
    causal: bool,
    cumsum: str,
    lin_norm: str,
    kernel: str = "relu2",
    overlap: bool = False,
    chunk_weights: Any = None,
) -> Any:
    """Chunk by chunk, as the paper tells it: no padding, the last chunk is simply shorter.

    With `overlap` a chunk also sees the one before, and the bias is [2 chunk, 2 chunk], its own positions the last;
    `chunk_weights` [b, g, h] weigh the states.
    """
    batch, length = v.shape[:2]
    spans = [slice(start, min(start + chunk, length)) for start in range(0, length, chunk)]
    states = np.array([np.einsum("bns,bne->bse", lin_k[:, at], v[:, at]) for at in spans])
    out = np.zeros_like(v)
    seen = None if documents is None else ref_seen(ref_numbers(documents, length), length, 3)
    for g, at in enumerate(spans):
        n = at.stop - at.start
        earlier = min(chunk, at.start) if overlap else 0
        keys = slice(at.start - earlier, at.stop)
        first = chunk if overlap else 0
        scores = quad_q[:, at] @ quad_k[:, keys].swapaxes(1, 2) + bias[first : first + n, first - earlier : first + n]
        near = np.tri(n, n + earlier, earlier if causal else n + earlier, dtype=bool)
        near = near if seen is None else near & seen[:, at, keys]
        out[:, at] = ref_weights(OPS[kernel].ref, scores, near) @ v[:, keys]
        if documents is not None:
            continue
        weights = np.array([_sees(segment_ids, at, other) for other in spans]).reshape(len(spans), -1)
        weights = np.broadcast_to(weights, (len(spans), batch)).astype(np.float64).copy()
        if causal:
            weights[g:] = 0
        if lin_norm == "chunk_mean":
            weights /= np.maximum(weights.sum(0), 1)
        if chunk_weights is not None:
            weights *= chunk_weights[:, g].T
        out[:, at] += lin_q[:, at] @ np.einsum("hb,hbse->bse", weights, states) / (1 if lin_norm == "none" else chunk)
    if documents is not None:
        how: dict[str, Any] = {"chunk": chunk, "causal": causal, "lin_norm": lin_norm, "weights": chunk_weights}
        visible = None if segment_ids is None else _ref_visible(segment_ids, ref_numbers(documents, length) > 0, spans)
        out += ref_between(lin_q, lin_k, v, documents, visible=visible, **how)
    return out


def _ref_visible(segment_ids: Any, tokens: Any, spans: list[slice]) -> Any:
    """Whether the ranges of ids of the tokens of two chunks overlap, [b, g, h]; no tokens, no range."""
    made = np.zeros((len(tokens), len(spans), len(spans)), bool)
    for row, (ids, real) in enumerate(zip(segment_ids, tokens, strict=True)):
        parts = [ids[at][real[: len(ids)][at]] for at in spans]
        for g, own in enumerate(parts):
            for h, other in enumerate(parts):
                some = own.size and other.size
                made[row, g, h] = some and own.min() <= other.max() and own.max() >= other.min()
    return made


def _sees(segment_ids: Any, at: slice, other: slice) -> Any:
    """Whether the ranges of ids of two chunks overlap (Code 7), for each row of the batch."""
    if segment_ids is None:
        return np.ones(1)
    ranges = (segment_ids[:, part] for part in (at, other))
    (first, last), (start, end) = ((x.min(1), x.max(1)) for x in ranges)
    return (first <= end) & (last >= start)


def _decompose_mixed(
    b: Builder,
    quad_q: Value,
    quad_k: Value,
    lin_q: Value,
    lin_k: Value,
    v: Value,
    bias: Value,
    segment_ids: Value | None = None,
    documents: Value | None = None,
    *,
    chunk: int,
    causal: bool,
    cumsum: str,
    lin_norm: str,
    kernel: str,
) -> Value:
    """Local + global over [b, g, chunk, *]; zeros that pad the last chunk add nothing."""
    near = documents if documents is not None else told_of_padding(b, v, chunk, causal, kernel)
    quad_q, quad_k, lin_q, lin_k, values = (chunked(b, x, chunk) for x in (quad_q, quad_k, lin_q, lin_k, v))
    documents = None if documents is None else chunked_documents(b, documents, chunk, values.type.shape[1])
    visible = overlapping_chunks(b, segment_ids, chunk, values.type.shape[1], documents)
    near = None if near is None else chunked_documents(b, near, chunk, values.type.shape[1])
    local = b.quadratic_attention(quad_q, quad_k, values, bias, near, causal=causal, kernel=kernel)
    sums = {"causal": causal, "cumsum": cumsum, "lin_norm": lin_norm}
    distant = b.linear_attention(lin_q, lin_k, values, visible, None, documents, **sums)
    return unchunked(b, b.add(local, distant), v.type.shape[1])


def told_of_padding(b: Builder, v: Value, chunk: int, causal: bool, kernel: str) -> Value | None:
    """bool [b, t], where a softmax would count zeros that pad the last chunk; else none"""
    if kernel != "softmax" or causal or divides(chunk, v.type.shape[1]):
        return None
    return b.broadcast(b.constant(True, DType.BOOL), shape=v.type.shape[:2])


def _cost_mixed(ins: Types, outs: Types, chunk: int, causal: bool, cumsum: str, lin_norm: str, kernel: str) -> Cost:
    q, v, traffic = ins[0], ins[4], moved(ins, outs)
    assert q is not None and v is not None
    batch, length, s = q.sizes
    e, g = v.sizes[-1], -(-length // chunk)
    products = (
        Contraction(batch * g, chunk, s, chunk),
        Contraction(batch * g, chunk, chunk, e),
        Contraction(batch * g, s, chunk, e),
        Contraction(batch * g, chunk, s, e),
    )
    flops = batch * g * (KERNEL_WEIGHT[kernel] * chunk * chunk + s * e)
    return Cost(flops, traffic.read, traffic.written, g if cumsum == "scan" else 1, products)


_MIXED = ("f32[2, 7, 4]",) * 4 + ("f32[2, 7, 6]", "f32[3, 3]")

mixed_chunk_attention = define_op(
    OpDef(
        "mixed_chunk_attention",
        ("quad_q", "quad_k", "lin_q", "lin_k", "v", "bias", "segment_ids?", "documents?"),
        _infer_mixed,
        ref_mixed,
        _cost_mixed,
        tuple(
            sample(*_MIXED, *segments, chunk=3, causal=causal, cumsum=kind, lin_norm=norm)
            for causal in (True, False)
            for kind, norm in (("scan", "none"), ("matmul", "chunk"), ("native", "chunk_mean"))
            for segments in ((), ("i32[2, 7]",), (None, "bool[2, 7]"), ("i32[2, 7]", "bool[2, 7]"))
        )
        + tuple(
            sample(*_MIXED, *segments, chunk=3, causal=causal, cumsum="matmul", kernel=kernel)
            for causal in (True, False)
            for kernel in ("softmax", "laplace")
            for segments in ((), (None, "bool[2, 7]"))
        ),
        attrs={
            "chunk": integer(least=1),
            "causal": flag(),
            "cumsum": CUMSUM,
            "lin_norm": LIN_NORM,
            "kernel": KERNEL,
        },
        decompose=_decompose_mixed,
        stream=StreamingRule(mixed_step, mixed_after),
        doc="quadratic attention within each chunk plus linear attention between chunks",
    )
)
