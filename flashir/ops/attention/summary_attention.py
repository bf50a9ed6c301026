"""Attention within chunks and to one summary of each other chunk, with a common softmax (Appendix A).

Axes: b batch, h heads, t length, g and c chunks, n and m within a chunk, s key, e value.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import Contraction, Cost, Types, moved
from flashir.ir.dims import Size, ceildiv, divides
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, define_op, flag, integer, number, sample
from flashir.ir.streaming import States, StreamingRule
from flashir.ir.types import TensorType
from flashir.ops.attention.chunks import chunked, chunked_documents, unchunked
from flashir.ops.attention.documents import (
    any_of,
    are_packed,
    check_documents,
    clear_padding,
    document_numbers,
    end_of_chunks,
    for_each_head,
    mask_scores,
    of_last_document,
    ref_numbers,
)
from flashir.ops.attention.quadratic import check_heads
from flashir.ops.attention.recurrence_parts import tokens_of_chunks
from flashir.ops.attention.softmax import SOFTMAX_WEIGHT, ref_softmax, until_now
from flashir.ops.decode.chunk_state import masks
from flashir.ops.decode.context import DecodeContext, column, equal, of_size, ring_after, with_rank
from flashir.ops.decode.window import Window
from flashir.ops.layers.multi_head import rows_of_heads
from flashir.ops.primitive.elementwise import floating


def sides_of(documents: TensorType | None, causal: bool) -> tuple[bool, ...]:
    """For each set of summaries, whether it summarises the first document of each chunk instead of the last.

    Later chunks see the last document of a chunk, earlier chunks its first. In a row of one document both are the same.
    """
    return (False, True) if documents is not None and are_packed(documents) and not causal else (False,)


def _infer_summary(
    q: TensorType,
    k: TensorType,
    v: TensorType,
    k_sum: TensorType,
    v_sum: TensorType,
    documents: TensorType | None = None,
    *,
    chunk: int,
    causal: bool,
    **_: Any,
) -> TensorType:
    check_heads(q, k, v)
    if q.rank != 4:
        raise IRError(f"q, k, v must be [b, h, t, *], got {q}")
    check_documents(documents, q.shape[0], q.shape[2])
    chunks = ceildiv(q.shape[2], chunk) * len(sides_of(documents, causal))
    for summary, of in ((k_sum, k), (v_sum, v)):
        wanted = of.with_shape((*of.shape[:2], chunks, of.shape[3]))
        if summary != wanted:
            raise IRError(f"summaries of chunks of {chunk} must be {wanted}, got {summary}")
    return floating(v)


def ref_summary_attention(
    q: Any,
    k: Any,
    v: Any,
    k_sum: Any,
    v_sum: Any,
    documents: Any = None,
    *,
    chunk: int,
    causal: bool,
    scale: float,
) -> Any:
    """`summary_attention` in numpy, token by token, over the concatenation of its keys."""
    if documents is not None:
        return _ref_packed(q, k, v, k_sum, v_sum, ref_numbers(documents, q.shape[2]), chunk, causal, scale)
    out = np.zeros_like(v)
    for t in range(q.shape[2]):
        g = t // chunk
        local = slice(g * chunk, t + 1 if causal else (g + 1) * chunk)
        others = [c for c in range(k_sum.shape[2]) if (c < g if causal else c != g)]
        keys = np.concatenate([k[:, :, local], k_sum[:, :, others]], 2)
        values = np.concatenate([v[:, :, local], v_sum[:, :, others]], 2)
        weights = ref_softmax(scale * np.einsum("bhs,bhms->bhm", q[:, :, t], keys))
        out[:, :, t] = np.einsum("bhm,bhme->bhe", weights, values)
    return out


def _ref_packed(
    q: Any, k: Any, v: Any, k_sum: Any, v_sum: Any, numbers: Any, chunk: int, causal: bool, scale: float
) -> Any:
    """Token by token, over the keys and summaries of its own document; numbers [b, t] are 0 for padding."""
    out, count = np.zeros_like(v), -(-q.shape[2] // chunk)
    for row, t in np.argwhere(numbers > 0):
        g, own = t // chunk, numbers[row] == numbers[row, t]
        holding = {at // chunk for at in np.flatnonzero(own)}
        near = [m for m in np.flatnonzero(own) if m // chunk == g and (m <= t or not causal)]
        far = [c for c in holding if c < g] + [c + (k_sum.shape[2] - count) for c in holding if c > g and not causal]
        keys, values = (
            np.concatenate([x[row][:, near], x_sum[row][:, far]], 1) for x, x_sum in ((k, k_sum), (v, v_sum))
        )
        weights = ref_softmax(scale * np.einsum("hs,hms->hm", q[row, :, t], keys))
        out[row, :, t] = np.einsum("hm,hme->he", weights, values)
    return out


def _decompose_summary(
    b: Builder,
    q: Value,
    k: Value,
    v: Value,
    k_sum: Value,
    v_sum: Value,
    documents: Value | None = None,
    *,
    chunk: int,
    causal: bool,
    scale: float,
) -> Value:
    """One softmax over n scores within the chunk and g scores of summaries, then two separate products."""
    length = q.type.shape[2]
    queries, keys, values = (chunked(b, rows_of_heads(b, x), chunk) for x in (b.mul(q, scale), k, v))
    k_sum, v_sum = rows_of_heads(b, k_sum), rows_of_heads(b, v_sum)
    rows, chunks, n, s = queries.type.shape
    local = b.matmul(queries, keys, transpose_y=True)
    if causal:
        local = b.select(until_now(b, chunk), local, float("-inf"))
    elif documents is None and not divides(chunk, length):
        local = b.select(tokens_of_chunks(b, length, chunk, chunks), local, float("-inf"))
    flat, summaries = (rows, chunks * chunk), k_sum.type.shape[1]
    distant = b.matmul(b.reshape(queries, shape=(*flat, s)), k_sum, transpose_y=True)
    distant = b.reshape(distant, shape=(rows, chunks, n, summaries))
    seen, numbers = _chunks_seen(b, chunks, causal), None
    if documents is not None:
        of_chunks = chunked_documents(b, for_each_head(b, documents, q.type.shape[1]), chunk, chunks)
        numbers = document_numbers(b, of_chunks, chunk)
        local, seen = mask_scores(b, local, numbers), _summaries_seen(b, of_chunks, causal)
    distant = b.select(seen, distant, float("-inf"))
    weights = b.softmax(b.concat(local, distant, axis=3))
    near, far = b.results("split", weights, axis=3, sizes=(n, summaries))
    summed = b.matmul(b.reshape(far, shape=(*flat, summaries)), v_sum)
    out = b.add(b.matmul(near, values), b.reshape(summed, shape=values.type.shape))
    out = out if numbers is None else clear_padding(b, out, numbers)
    return b.reshape(unchunked(b, out, length), shape=v.type.shape)


def _chunks_seen(b: Builder, chunks: Size, causal: bool) -> Value:
    """bool [g, 1, c]: earlier chunks if causal, otherwise all other chunks"""
    index = b.iota(length=chunks)
    own, other = b.reshape(index, shape=(chunks, 1, 1)), b.reshape(index, shape=(1, 1, chunks))
    apart = b.sub(own, other)
    return b.less(other, own) if causal else b.less(0, b.mul(apart, apart))


def _summaries_seen(b: Builder, documents: Value, causal: bool) -> Value:
    """bool [b, g, n, c]: which summaries of other chunks are of the same document as each token"""
    batch, chunks, n = documents.type.shape
    numbers = column(b, document_numbers(b, documents, n))
    sides, seen = sides_of(documents.type, causal), []
    for first in sides:
        held = b.reshape(any_of(b, of_last_document(b, documents, first=first)), shape=(batch, 1, 1, chunks))
        ends = b.reshape(end_of_chunks(b, document_numbers(b, documents, n), first=first), shape=held.type.shape)
        others = _chunks_seen(b, chunks, causal or len(sides) > 1)
        others = b.transpose(others, perm=(2, 1, 0)) if first else others
        seen.append(b.logical_and(b.logical_and(equal(b, numbers, ends), held), others))
    return seen[0] if len(seen) == 1 else b.concat(*seen, axis=3)


def _after_summary(
    now: DecodeContext, q: Value, k: Value, v: Value, k_sum: Value, v_sum: Value, *, chunk: int, **_: Any
) -> States:
    """`k` and `v`: a ring buffer of the last chunk; `k_sum` and `v_sum` [b, h, c, *]: a cache of summaries"""
    room = _room(now, chunk) + now.spare
    summaries = {name: of_size(now.b, x, 2, room) for name, x in (("k_sum", k_sum), ("v_sum", v_sum))}
    return {"k": ring_after(now, k, chunk), "v": ring_after(now, v, chunk), **summaries}


def _room(now: DecodeContext, chunk: int) -> int:
    """c, the capacity of the cache of summaries, including that of the open chunk"""
    return now.room // chunk + 1


def _step_summary(
    now: DecodeContext,
    states: States,
    q: Value,
    k: Value,
    v: Value,
    k_sum: Value,
    v_sum: Value,
    *,
    chunk: int,
    causal: bool,
    scale: float,
) -> tuple[Value, States]:
    """One softmax over the window and the cache. The summary of a chunk is masked until the chunk is full"""
    b, room = now.b, _room(now, chunk)
    window = Window.of(now, states, {"k": k, "v": v}, chunk)
    touched = b.add(column(b, b.floor_div(now.seen, divisor=chunk)), b.iota(length=k_sum.type.shape[2]))
    if now.own is not None:
        begun = b.less(b.mul(touched, chunk), column(b, now.after()))
        touched = now.slots(touched, b.logical_and(begun, b.less(0, column(b, now.own))), room)
    after = dict(window.after)
    after |= {name: b.put_rows(states[name], x, touched) for name, x in (("k_sum", k_sum), ("v_sum", v_sum))}
    seen = masks(now, window, chunk, False)
    q, slots = b.mul(q, scale), room + now.spare
    near = b.select(with_rank(b, seen.near, 4), window.scores(q, "k"), float("-inf"))
    full = with_rank(b, b.less(b.iota(length=slots), column(b, seen.chunks)), 4)
    far = b.select(full, b.matmul(q, after["k_sum"], transpose_y=True), float("-inf"))
    sizes = (window.keys.type.shape[1], slots)
    weights = b.results("split", b.softmax(b.concat(near, far, axis=-1)), axis=-1, sizes=sizes)
    return b.add(window.values(weights[0], "v"), b.matmul(weights[1], after["v_sum"])), after


def summary_products(count: int, t: int, s: int, e: int, n: int, c: int) -> tuple[Contraction, ...]:
    """The products of `count` heads with the n keys of each chunk and with c summaries."""
    g = -(-t // n)
    local = (Contraction(count * g, n, s, n), Contraction(count * g, n, n, e))
    return (*local, Contraction(count, g * n, s, c), Contraction(count, g * n, c, e))


def softmax_flops(count: int, t: int, n: int, c: int) -> float:
    """Operations of a softmax over n keys and c summaries per token."""
    return float(SOFTMAX_WEIGHT) * count * t * (n + c)


def _cost_summary(ins: Types, outs: Types, chunk: int, **_: Any) -> Cost:
    q, v, k_sum, traffic = ins[0], ins[2], ins[3], moved(ins, outs)
    assert q is not None and v is not None and k_sum is not None
    batch, heads, t, s = q.sizes
    summaries = k_sum.sizes[2]
    products = summary_products(batch * heads, t, s, v.sizes[-1], chunk, summaries)
    return replace(traffic, flops=softmax_flops(batch * heads, t, chunk, summaries), contractions=products)


summary_attention = define_op(
    OpDef(
        "summary_attention",
        ("q", "k", "v", "k_sum", "v_sum", "documents?"),
        infer=_infer_summary,
        ref=ref_summary_attention,
        cost=_cost_summary,
        samples=tuple(
            sample(
                *(f"f32[2, 3, {size}]" for size in (f"{t}, 4", f"{t}, 4", f"{t}, 6", f"{g}, 4", f"{g}, 6")),
                *documents,
                chunk=chunk,
                causal=causal,
                scale=0.5,
            )
            for t, chunk, g, documents in (
                *((7, 3, 3, ()), (6, 3, 2, ()), (2, 5, 1, ()), (0, 3, 0, ())),
                *((7, 3, 3, ("bool[2, 7]",)), (7, 2, 4, ("bool[2, 6]",)), (0, 3, 0, ("bool[2, 0]",))),
            )
            for causal in (True, False)
        ),
        attrs={
            "chunk": integer(least=1),
            "causal": flag(),
            "scale": number(1.0, doc="the factor of q k^T; 1 / sqrt(s) in MHSA"),
        },
        decompose=_decompose_summary,
        stream=StreamingRule(_step_summary, _after_summary),
        doc="softmax attention within the chunk and to summaries of the other chunks, or of earlier ones if causal",
    )
)
