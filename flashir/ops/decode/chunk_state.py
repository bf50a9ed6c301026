"""The chunked recurrence token by token: the sum over all closed chunks, and the tokens of the current chunk.

A chunk sees the sum of k^T v over the chunks before it. So the state is the sum R over closed chunks. It changes only
when a chunk closes: its tokens are all in the ring then, and K^T V of them is added at once (`add_products`). At any
other token nothing updates the sum, and nothing but q R reads it.

A call of many tokens may cross the border of a chunk. Its later tokens see chunks that close within the call, which R
lacks. They attend to those in the scores (`add_scores`).

Axes: b batch, h heads, t new tokens, m positions that they attend to (`Window`), s key, e expanded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flashir.ir.builder import Builder
from flashir.ir.graph import Value
from flashir.ir.streaming import States
from flashir.ir.types import DType, TensorType
from flashir.ops.attention.softmax import until_now
from flashir.ops.decode.context import (
    DecodeContext,
    column,
    equal,
    remainder,
    ring_after,
    with_rank,
)
from flashir.ops.decode.window import Window
from flashir.ops.functions.norm import accumulation_dtype, as_dtype

Part = tuple["Value", str]
"""The queries of a part, and the name of the keys that they are for."""


@dataclass(frozen=True)
class Masks:
    """The masks of new tokens over their window, which includes themselves.

    Args:
        near: bool [b, t, m], the keys of local attention.
        far: bool [b, t, m], the keys of earlier chunks that are not in the sum before the new tokens.
        closed: bool [b, m], the keys of chunks that these tokens close, which the sum lacks.
        chunks: i32 [b, t], the number of earlier chunks.
        back: i32 [b, t, m], the distance of a key before the token.
    """

    near: Value
    far: Value
    closed: Value
    chunks: Value
    back: Value


def masks(now: DecodeContext, window: Window, chunk: int, overlap: bool) -> Masks:
    """The masks of new tokens. With `overlap`, a chunk also sees the previous chunk."""
    b, query = now.b, now.positions()
    chunks, of_key = (b.floor_div(b.maximum(x, 0), divisor=chunk) for x in (query, window.keys))
    own, other, key, query = column(b, chunks), _row(b, of_key), _row(b, window.keys), column(b, query)
    seen = b.logical_and(b.less_equal(key, query), b.less_equal(0, key))
    near = b.logical_and(seen, b.less_equal(b.sub(own, 1), other) if overlap else equal(b, own, other))
    first, last = (column(b, b.floor_div(count, divisor=chunk)) for count in (now.seen, now.after()))
    unsummed = b.logical_and(window.counted, b.less_equal(first, of_key))
    closed = b.logical_and(unsummed, b.less(of_key, last))
    far = b.logical_and(_row(b, unsummed), b.less(other, own))
    return Masks(near, far, closed, chunks, b.sub(query, key))


def seen_at_once(chunk: int, overlap: bool) -> int:
    """The most keys of local attention, and so the span of a bias."""
    return 2 * chunk if overlap else chunk


def chunks_after(
    now: DecodeContext, v: Value, keys: dict[str, Value], far: str | None, chunk: int, overlap: bool = False
) -> States:
    """The states after a prompt.

    Args:
        now: the context after the prompt.
        v: [b, .., t, e].
        keys: [b, .., t, s] by name.
        far: the name of the keys that are summed with v, if any.
        chunk, overlap: as in the op.
    """
    span = seen_at_once(chunk, overlap)
    rings = {name: ring_after(now, x, span) for name, x in {**keys, "v": v}.items()}
    if far is None:
        return rings
    closed = now.b.mul(now.b.floor_div(now.seen, divisor=chunk), chunk)
    return {"sum": sum_after(replace(now, own=closed), keys[far], v), **rings}


def sum_after(now: DecodeContext, k: Value, v: Value, decay: Value | None = None) -> Value:
    """[b, .., t, s], [b, .., t, e] -> k^T v over the tokens of each row, [b, .., s, e] in float32 or wider

    With the logarithm of a decay, [..] or [b, .., t], each product is decayed to the last token.
    """
    b, dtype = now.b, accumulation_dtype(v.type.dtype)
    keys = as_dtype(b, k, dtype)
    if decay is not None:
        decays = now.only_own(column(b, _of_each_token(b, decay, v.type)))
        after = b.sub(b.reduce_sum(decays, axes=(-2,), keepdims=True), b.cumsum(decays, axis=v.type.rank - 2))
        keys = b.mul(keys, b.exp(after))
    return b.matmul(now.only_own(keys), as_dtype(b, v, dtype), transpose_x=True)


def _of_each_token(b: Builder, decay: Value, v: TensorType) -> Value:
    """The decay of each token, [b, .., t]; a constant decay [..] is broadcast."""
    shape = v.shape[:-1]
    return decay if decay.type.shape == shape else b.broadcast(column(b, decay), shape=shape)


def sum_step(
    now: DecodeContext, states: States, q: Value, k: Value, v: Value, decay: Value | None = None
) -> tuple[Value, States]:
    """q_t (the sum over all tokens up to t), [b, .., t, e]; the sum is [b, .., s, e]

    Without decay, k_m^T v_m of the new tokens m > t is subtracted from the new sum. With decay, the state first decays
    to the first new token and is decayed further from there, so that no factor exceeds 1.
    """
    b, dtype, length = now.b, states["sum"].type.dtype, now.length
    queries, keys, values = (as_dtype(b, x, dtype) for x in (q, now.only_own(k), v))
    if decay is None:
        added = b.matmul(keys, values, transpose_x=True)
        after = b.add(states["sum"], with_rank(b, added, states["sum"].type.rank))
        out = b.matmul(queries, with_rank(b, after, q.type.rank))
        if length != 1:
            later = b.select(until_now(b, length), 0.0, b.matmul(queries, keys, transpose_y=True))
            out = b.sub(out, b.matmul(later, values))
        return as_dtype(b, out, v.type.dtype), {"sum": after}
    decays = b.reshape(now.only_own(column(b, _of_each_token(b, decay, v.type))), shape=v.type.shape[:-1])
    axis = decays.type.rank - 1
    first = b.slice(decays, axis=axis, stop=1)
    begun = b.mul(states["sum"], b.exp(column(b, first)))
    if length == 1:
        after = b.add(begun, b.matmul(keys, values, transpose_x=True))
        return as_dtype(b, b.matmul(queries, after), v.type.dtype), {"sum": after}
    until = b.sub(b.cumsum(decays, axis=axis), first)  # from after the first token
    end = b.sub(b.reduce_sum(decays, axes=(-1,), keepdims=True), first)
    ago = b.sub(column(b, until), b.reshape(until, shape=(*until.type.shape[:-1], 1, length)))
    left = b.exp(b.select(until_now(b, length), ago, float("-inf")))
    scores = b.mul(b.matmul(queries, keys, transpose_y=True), left)
    out = b.add(b.matmul(b.mul(queries, b.exp(column(b, until))), begun), b.matmul(scores, values))
    faded = b.mul(keys, b.exp(column(b, b.sub(end, until))))
    after = b.add(b.mul(begun, b.exp(column(b, end))), b.matmul(faded, values, transpose_x=True))
    return as_dtype(b, out, v.type.dtype), {"sum": after}


def chunks_step(
    now: DecodeContext,
    states: States,
    v: Value,
    keys: dict[str, Value],
    local: Part | None,
    far: Part | None,
    *,
    chunk: int,
    lin_norm: str,
    kernel: str,
    bias: Value | None = None,
    overlap: bool = False,
) -> tuple[Value, States]:
    """The results of new tokens, and the states after them.

    Args:
        now: the context before the new tokens.
        states: `sum` [b, .., s, e] if there is a far part; `v` and keys by name, [b, .., n, *].
        v: [b, .., t, e].
        keys: [b, .., t, s] by name.
        local, far: queries [b, .., t, s] and the name of their keys, for attention within chunks and between chunks.
        chunk, lin_norm, overlap: as in the op.
        kernel: the op that turns local scores into weights.
        bias: [2 chunk, 2 chunk] with overlap, else [chunk, chunk], or none.
    """
    b, dtype = now.b, accumulation_dtype(v.type.dtype)
    window = Window.of(now, states, {**keys, "v": v}, seen_at_once(chunk, overlap))
    seen, after = masks(now, window, chunk, overlap), dict(window.after)
    weights, distant = None, None
    if local is not None:
        scores = window.scores(*local)
        if bias is not None:
            scores = b.add(scores, _bias(now, bias, seen.back, chunk))
        near = with_rank(b, seen.near, scores.type.rank)
        if kernel == "identity":
            weights = b.select(near, scores, 0.0)
        else:
            (weights,) = b.results(kernel, b.select(near, scores, float("-inf")))
        weights = as_dtype(b, weights, dtype)
    if far is not None:
        q, name = as_dtype(b, far[0], dtype), far[1]
        norm = _norm(b, column(b, seen.chunks), chunk, lin_norm, dtype)
        q = b.mul(q, with_rank(b, norm, q.type.rank))
        distant = b.matmul(q, with_rank(b, states["sum"], q.type.rank))
        weights = window.with_scores(weights, seen.far, q, name)
        after["sum"] = window.with_products(states["sum"], seen.closed, name, "v")
    parts = [distant] if weights is None else [window.values(weights, "v"), distant]
    first, *others = (part for part in parts if part is not None)
    return as_dtype(b, b.add(first, *others) if others else first, v.type.dtype), after


def _bias(now: DecodeContext, bias: Value, back: Value, chunk: int) -> Value:
    """[b, t, n]: the entries of a bias for these positions; masked entries are unspecified"""
    b, span = now.b, bias.type.shape[0]
    assert isinstance(span, int)
    row = column(b, b.add(remainder(b, now.positions(), chunk), span - chunk))
    at = b.minimum(b.maximum(b.sub(row, back), 0), span - 1)
    return b.gather(b.reshape(bias, shape=(span * span,)), b.add(b.mul(row, span), at))


def _norm(b: Builder, chunks: Value, chunk: int, lin_norm: str, dtype: DType) -> Value:
    """The factor of the global part, per token [b, t, 1] or for all []."""
    if lin_norm != "chunk_mean":
        return b.constant(1.0 if lin_norm == "none" else 1.0 / chunk, dtype)
    return b.mul(b.reciprocal(b.maximum(b.cast(chunks, dtype=dtype), 1.0)), 1.0 / chunk)


def _row(b: Builder, x: Value) -> Value:
    """[b, n] -> [b, 1, n]"""
    batch, n = x.type.shape
    return b.reshape(x, shape=(batch, 1, n))
