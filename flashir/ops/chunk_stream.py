"""Mixed chunk attention, token by token: the sum over all tokens so far, and the tokens of the current chunk.

A chunk sees the sum of k^T v over the chunks before it. Kept is the sum R over every token so far, which a new token
changes by one product of rank 1; what it holds of the own chunk is taken out again where the scores are,

    q R - q (K^T V of the own chunk) = q R - sum over the chunk of (q k_j) v_j,

so that a border between chunks, inside a step too, is a matter of masks. No K^T V of a chunk is computed at its end.

Axes: b batch, h heads, t new tokens, n slots of the ring, m = n + t what a token may look at, s key, e expanded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashir.ir.types import DType
from flashir.ops.norm import as_dtype, wide
from flashir.ops.stream import (
    Moment,
    States,
    column,
    equal,
    last_positions,
    remainder,
    ring_after,
    ring_step,
    take_rows,
    under_heads,
)

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Value

Part = tuple["Value", str]
"""The queries of a part, and the name of the keys that they are for."""


@dataclass(frozen=True)
class Masks:
    """What the new tokens see of the ring and of each other.

    Args:
        near: bool [b, t, m], what attends one by one.
        taken: [b, t, m], how often a product with the sum misses a key: 1 of a new one in a chunk before, -1 of one
            in the ring that is in the own chunk.
        chunks: i32 [b, t], how many chunks stand before.
        back: i32 [b, t, m], how far a key stands before the token.
    """

    near: Value
    taken: Value
    chunks: Value
    back: Value


def masks(now: Moment, chunk: int, overlap: bool, dtype: DType) -> Masks:
    """Those of a step; with `overlap` a chunk also sees the one before."""
    b, slots = now.b, ring_size(chunk, overlap)
    query = now.positions()
    key = b.concat(last_positions(b, now.seen, slots), query, axis=1)
    chunks, of_key = b.floor_div(query, divisor=chunk), b.floor_div(b.maximum(key, 0), divisor=chunk)
    own, other, key = column(b, chunks), _row(b, of_key), _row(b, key)
    seen = b.logical_and(b.less_equal(key, column(b, query)), b.less_equal(0, key))
    same = equal(b, own, other)
    new = b.cast(b.less_equal(slots, b.iota(length=slots + now.length)), dtype=dtype)
    taken = b.select(seen, b.sub(new, b.cast(same, dtype=dtype)), 0.0)
    near = b.logical_and(seen, b.less_equal(b.sub(own, 1), other) if overlap else same)
    return Masks(near, taken, chunks, b.sub(column(b, query), key))


def ring_size(chunk: int, overlap: bool) -> int:
    """n, the tokens that the next one may look at."""
    return 2 * chunk if overlap else chunk


def chunks_after(
    now: Moment, v: Value, keys: dict[str, Value], far: str | None, chunk: int, overlap: bool = False
) -> States:
    """The states after a prompt.

    Args:
        now: after the prompt.
        v: [b, .., t, e].
        keys: [b, .., t, s] by name.
        far: which keys are summed up with v, if any.
        chunk, overlap: as in the op.
    """
    slots = ring_size(chunk, overlap)
    kept = {name: ring_after(now, x, slots) for name, x in {**keys, "v": v}.items()}
    return kept if far is None else {"sum": sum_after(now, keys[far], v), **kept}


def sum_after(now: Moment, k: Value, v: Value) -> Value:
    """[b, .., t, s], [b, .., t, e] -> k^T v over each row's own tokens, [b, .., s, e] in float32 at least"""
    b, dtype = now.b, wide(v.type.dtype)
    token = under_heads(b, column(b, now.is_token()), k.type.rank)
    return b.matmul(b.select(token, as_dtype(b, k, dtype), 0.0), as_dtype(b, v, dtype), transpose_x=True)


def chunks_step(
    now: Moment,
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
    """What new tokens find, and the states after them.

    Args:
        now: before them.
        states: `sum` [b, .., s, e] where there is a far part; `v` and keys by name, [b, .., n, *].
        v: [b, .., t, e].
        keys: [b, .., t, s] by name.
        local, far: queries [b, .., t, s] and the name of their keys: of attention within chunks, and between them.
        chunk, lin_norm, overlap: as in the op.
        kernel: the op that makes weights of local scores.
        bias: [2 chunk, 2 chunk] with overlap, else [chunk, chunk], or none.
    """
    b, dtype, slots = now.b, wide(v.type.dtype), ring_size(chunk, overlap)
    seen = masks(now, chunk, overlap, dtype)
    both = {name: b.concat(states[name], x, axis=x.type.rank - 2) for name, x in {**keys, "v": v}.items()}
    weights: list[Value] = []
    if local is not None:
        scores = _scores(b, local[0], both[local[1]])
        if bias is not None:
            scores = b.add(scores, _bias(now, bias, seen.back, chunk))
        near = under_heads(b, seen.near, scores.type.rank)
        (made_of,) = b.results(kernel, b.select(near, scores, float("-inf")))
        weights.append(as_dtype(b, made_of, dtype))
    made = []
    if far is not None:
        norm = _norm(b, column(b, seen.chunks), chunk, lin_norm, dtype)
        factor = under_heads(b, b.mul(seen.taken, norm), v.type.rank)
        scores = _scores(b, as_dtype(b, far[0], dtype), both[far[1]])
        weights.append(b.mul(scores, factor))
        distant = b.matmul(as_dtype(b, far[0], dtype), states["sum"])
        made.append(b.mul(distant, under_heads(b, norm, v.type.rank)))
    total = weights[0] if len(weights) == 1 else b.add(*weights)
    out = b.matmul(total, as_dtype(b, both["v"], dtype))
    for each in made:
        out = b.add(out, each)
    kept = ring_step(now, slots)
    after = {name: take_rows(b, x, kept) for name, x in both.items()}
    if far is not None:
        added = b.matmul(as_dtype(b, keys[far[1]], dtype), as_dtype(b, v, dtype), transpose_x=True)
        after["sum"] = b.add(states["sum"], added)
    return as_dtype(b, out, v.type.dtype), after


def mixed_after(
    now: Moment, quad_q: Value, quad_k: Value, lin_q: Value, lin_k: Value, v: Value, *_: Value, chunk: int, **__: Any
) -> States:
    """Of `mixed_chunk_attention`."""
    return chunks_after(now, v, {"quad_k": quad_k, "lin_k": lin_k}, "lin_k", chunk)


def mixed_step(
    now: Moment,
    states: States,
    quad_q: Value,
    quad_k: Value,
    lin_q: Value,
    lin_k: Value,
    v: Value,
    bias: Value,
    *,
    chunk: int,
    lin_norm: str,
    **_: Any,
) -> tuple[Value, States]:
    """Of `mixed_chunk_attention`."""
    keys, local, far = {"quad_k": quad_k, "lin_k": lin_k}, (quad_q, "quad_k"), (lin_q, "lin_k")
    return chunks_step(now, states, v, keys, local, far, chunk=chunk, lin_norm=lin_norm, kernel="relu2", bias=bias)


def _scores(b: Builder, q: Value, k: Value) -> Value:
    """q k^T, [b, .., t, m]"""
    return b.matmul(q, as_dtype(b, k, q.type.dtype), transpose_y=True)


def _bias(now: Moment, bias: Value, back: Value, chunk: int) -> Value:
    """[b, t, m]: the entries of a bias for those positions; of what is masked, any entry"""
    b, span = now.b, bias.type.shape[0]
    assert isinstance(span, int)
    row = column(b, b.add(remainder(b, now.positions(), chunk), span - chunk))
    at = b.minimum(b.maximum(b.sub(row, back), 0), span - 1)
    return b.gather(b.reshape(bias, shape=(span * span,)), b.add(b.mul(row, span), at))


def _norm(b: Builder, chunks: Value, chunk: int, lin_norm: str, dtype: DType) -> Value:
    """What the global part is multiplied by, for each token, [b, t, 1], or for all, []"""
    if lin_norm != "chunk_mean":
        return b.constant(1.0 if lin_norm == "none" else 1.0 / chunk, dtype)
    return b.mul(b.reciprocal(b.maximum(b.cast(chunks, dtype=dtype), 1.0)), 1.0 / chunk)


def _row(b: Builder, x: Value) -> Value:
    """[b, m] -> [b, 1, m]"""
    batch, m = x.type.shape
    return b.reshape(x, shape=(batch, 1, m))
