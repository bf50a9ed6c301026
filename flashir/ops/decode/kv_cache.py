"""Attention to all tokens so far, token by token: caches of keys and values, and biases by distance.

Axes: b batch, h heads, t new tokens, m the slots of a cache, max_len and a spare one, s key, e value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flashir.ir.graph import Value
from flashir.ir.streaming import States
from flashir.ops.decode.context import DecodeContext, cache_after, column, put_in_cache, visible_slots, with_rank
from flashir.ops.functions.norm import as_dtype


def caches_after(now: DecodeContext, q: Value, k: Value, v: Value, *_: Value, **__: Any) -> States:
    """`k` and `v`, [b, .., m, *], each token at its position"""
    return {"k": cache_after(now, k), "v": cache_after(now, v)}


def caches_step(
    now: DecodeContext, states: States, q: Value, k: Value, v: Value, *, kernel: str, bias: Value | None = None
) -> tuple[Value, States]:
    """kernel(q k^T + bias) v over earlier and new tokens, [b, .., t, e]; the bias is [b, t, m]"""
    b = now.b
    after = {name: put_in_cache(now, states[name], x) for name, x in (("k", k), ("v", v))}
    keys, values = (
        as_dtype(b, with_rank(b, after[name], x.type.rank), x.type.dtype) for name, x in (("k", k), ("v", v))
    )
    scores = b.matmul(q, keys, transpose_y=True)
    if bias is not None:
        scores = b.add(scores, with_rank(b, bias, scores.type.rank))
    seen = with_rank(b, visible_slots(now), scores.type.rank)
    (weights,) = b.results(kernel, b.select(seen, scores, float("-inf")))
    return b.matmul(weights, values), after


def by_distance(now: DecodeContext, near: Callable[[int], Value]) -> Value:
    """[b, t, m]: `near(m)` gives a weight for each distance 0 .. m - 1, [m]; later positions are unspecified"""
    b = now.b
    back = b.sub(column(b, now.positions()), b.iota(length=now.room + now.spare))
    return b.gather(near(now.room), b.minimum(b.maximum(back, 0), now.room - 1))
