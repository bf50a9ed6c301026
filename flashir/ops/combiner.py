"""combiner: chunks attend to themselves and to one summary of each other chunk, under one softmax (Appendix A).

V_g = softmax(Q [K_g; K^sum]) [V_g; V^sum]. What the paper leaves open is settled in decision 030.
Axes: b batch, h heads, t length, g and c chunks, n and m within a chunk, s key, e value.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.dims import Size, ceildiv, divides
from flashir.ir.types import TensorType
from flashir.ops.blocks import WEIGHT_STD, Params, width_of
from flashir.ops.chunk_stream import masks
from flashir.ops.chunks import chunked, unchunked
from flashir.ops.costs import Contraction, Cost, Types, moved
from flashir.ops.elementwise import floating
from flashir.ops.heads import (
    HEADS,
    SCOPE,
    cost_heads,
    cut_heads,
    head_params,
    infer_heads,
    inverse_root,
    merged,
    projected,
    ref_cut_heads,
    ref_merged,
    ref_projected,
    rows_of_heads,
)
from flashir.ops.mixed_heads import CHUNK, SCALE, tokens_of_chunks
from flashir.ops.opdef import OpDef, ParamSpec, define_op, flag, integer, sample
from flashir.ops.position import ref_rope
from flashir.ops.quadratic import check_heads
from flashir.ops.softmax import SOFTMAX_WEIGHT, ref_softmax, until_now
from flashir.ops.stream import Moment, States, Stream, column, ring_after, ring_step, under_heads
from flashir.ops.traits import where_causal

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Value


def _infer_summary(
    q: TensorType, k: TensorType, v: TensorType, k_sum: TensorType, v_sum: TensorType, chunk: int, **_: Any
) -> TensorType:
    check_heads(q, k, v)
    if q.rank != 4:
        raise IRError(f"q, k, v must be [b, h, t, *], got {q}")
    chunks = ceildiv(q.shape[2], chunk)
    for summary, of in ((k_sum, k), (v_sum, v)):
        wanted = of.with_shape((*of.shape[:2], chunks, of.shape[3]))
        if summary != wanted:
            raise IRError(f"summaries of chunks of {chunk} must be {wanted}, got {summary}")
    return floating(v)


def ref_summary_attention(
    q: Any, k: Any, v: Any, k_sum: Any, v_sum: Any, chunk: int, causal: bool, scale: float
) -> Any:
    """As `summary_attention`, in numpy: token by token, the keys it sees put side by side."""
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


def _decompose_summary(
    b: Builder, q: Value, k: Value, v: Value, k_sum: Value, v_sum: Value, chunk: int, causal: bool, scale: float
) -> Value:
    """One softmax over n scores within the chunk and g scores of summaries, then the two products apart."""
    length = q.type.shape[2]
    queries, keys, values = (chunked(b, rows_of_heads(b, x), chunk) for x in (b.mul(q, scale), k, v))
    k_sum, v_sum = rows_of_heads(b, k_sum), rows_of_heads(b, v_sum)
    rows, chunks, n, s = queries.type.shape
    local = b.matmul(queries, keys, transpose_y=True)
    if causal:
        local = b.select(until_now(b, chunk), local, float("-inf"))
    elif not divides(chunk, length):
        local = b.select(tokens_of_chunks(b, length, chunk, chunks), local, float("-inf"))
    flat = (rows, chunks * chunk)
    distant = b.matmul(b.reshape(queries, shape=(*flat, s)), k_sum, transpose_y=True)
    distant = b.reshape(distant, shape=(rows, chunks, n, chunks))
    distant = b.select(_chunks_seen(b, chunks, causal), distant, float("-inf"))
    weights = b.softmax(b.concat(local, distant, axis=3))
    near, far = b.results("split", weights, axis=3, sizes=(n, chunks))
    summed = b.matmul(b.reshape(far, shape=(*flat, chunks)), v_sum)
    out = b.add(b.matmul(near, values), b.reshape(summed, shape=values.type.shape))
    return b.reshape(unchunked(b, out, length), shape=v.type.shape)


def _chunks_seen(b: Builder, chunks: Size, causal: bool) -> Value:
    """bool [g, 1, c]: chunks before where causal, else all others"""
    index = b.iota(length=chunks)
    own, other = b.reshape(index, shape=(chunks, 1, 1)), b.reshape(index, shape=(1, 1, chunks))
    apart = b.sub(own, other)
    return b.less(other, own) if causal else b.less(0, b.mul(apart, apart))


def _after_summary(
    now: Moment, q: Value, k: Value, v: Value, k_sum: Value, v_sum: Value, chunk: int, **_: Any
) -> States:
    """`k`, `v`, a ring of the last chunk; `k_sum`, `v_sum`, [b, h, c, *], a cache of summaries"""
    b, room, slots = now.b, _room(now, chunk), now.ring(chunk)
    caches = ((name, x) for name, x in (("k_sum", k_sum), ("v_sum", v_sum)))
    summaries = {name: b.slice(b.pad(x, axis=2, after=room), axis=2, stop=room) for name, x in caches}
    return {"k": ring_after(now, k, slots), "v": ring_after(now, v, slots), **summaries}


def _room(now: Moment, chunk: int) -> int:
    """c, the summaries that a cache holds, those among them that the last step may touch"""
    return now.room // chunk + 1 + -(-(now.tokens - 1) // chunk)


def _step_summary(
    now: Moment,
    states: States,
    q: Value,
    k: Value,
    v: Value,
    k_sum: Value,
    v_sum: Value,
    chunk: int,
    causal: bool,
    scale: float,
) -> tuple[Value, States]:
    """One softmax over the ring and the cache; what a chunk is until it is full, nothing sees"""
    b, room = now.b, _room(now, chunk)
    touched = b.add(column(b, b.floor_div(now.seen, divisor=chunk)), b.iota(length=k_sum.type.shape[2]))
    after = {name: ring_step(now, states[name], x) for name, x in (("k", k), ("v", v))}
    after |= {name: b.put_rows(states[name], x, touched) for name, x in (("k_sum", k_sum), ("v_sum", v_sum))}
    seen = masks(now, chunk, False)
    q = b.mul(q, scale)
    near = b.select(under_heads(b, seen.near, 4), b.matmul(q, after["k"], transpose_y=True), float("-inf"))
    full = under_heads(b, b.less(b.iota(length=room), column(b, seen.chunks)), 4)
    far = b.select(full, b.matmul(q, after["k_sum"], transpose_y=True), float("-inf"))
    sizes = (now.ring(chunk), room)
    weights = b.results("split", b.softmax(b.concat(near, far, axis=-1)), axis=-1, sizes=sizes)
    return b.add(b.matmul(weights[0], after["v"]), b.matmul(weights[1], after["v_sum"])), after


def _summary_products(count: int, t: int, s: int, e: int, n: int) -> tuple[Contraction, ...]:
    g = -(-t // n)
    local = (Contraction(count * g, n, s, n), Contraction(count * g, n, n, e))
    return (*local, Contraction(count, g * n, s, g), Contraction(count, g * n, g, e))


def _softmax_flops(count: int, t: int, n: int) -> float:
    return float(SOFTMAX_WEIGHT) * count * t * (n + -(-t // n))


def _cost_summary(ins: Types, outs: Types, chunk: int, **_: Any) -> Cost:
    q, v, traffic = ins[0], ins[2], moved(ins, outs)
    assert q is not None and v is not None
    batch, heads, t, s = q.sizes
    products = _summary_products(batch * heads, t, s, v.sizes[-1], chunk)
    return replace(traffic, flops=_softmax_flops(batch * heads, t, chunk), contractions=products)


summary_attention = define_op(
    OpDef(
        "summary_attention",
        ("q", "k", "v", "k_sum", "v_sum"),
        _infer_summary,
        ref_summary_attention,
        _cost_summary,
        tuple(
            sample(
                *(f"f32[2, 3, {size}]" for size in (f"{t}, 4", f"{t}, 4", f"{t}, 6", f"{g}, 4", f"{g}, 6")),
                chunk=chunk,
                causal=causal,
                scale=0.5,
            )
            for t, chunk, g in ((7, 3, 3), (6, 3, 2), (2, 5, 1), (0, 3, 0))
            for causal in (True, False)
        ),
        attrs={"chunk": integer(least=1), "causal": flag(), "scale": SCALE},
        decompose=_decompose_summary,
        stream=Stream(_step_summary, _after_summary),
        doc="softmax attention to the own chunk and to summaries of the others, of those before where causal",
    )
)


def _params_combiner(x: TensorType, norm: str, **_: Any) -> dict[str, ParamSpec]:
    d = width_of(x)
    summaries = {}
    for name in ("summary_k", "summary_v"):
        summaries[f"{name}.weight"] = ParamSpec((d, d), std=WEIGHT_STD)
        summaries[f"{name}.bias"] = ParamSpec((d,))
    return {**head_params(x, norm=norm), **summaries}


def _ref_combiner(x: Any, p: Params, *, heads: int, causal: bool, norm: str, rope: bool, chunk: int, **_: Any) -> Any:
    q, k, v = ref_projected(x, p, norm)
    starts = range(0, x.shape[1], chunk)
    sums = []
    for name, each in (("summary_k", k), ("summary_v", v)):
        means = [each[:, at : at + chunk].mean(1) for at in starts]
        stacked = np.stack(means, 1) if means else each
        sums.append(ref_cut_heads(stacked @ p[f"{name}.weight"] + p[f"{name}.bias"], heads))
    k_sum, v_sum = sums
    q, k, v = (ref_cut_heads(each, heads) for each in (q, k, v))
    if rope:
        spread = np.repeat(k_sum, chunk, axis=2)  # each at every position of its chunk; the middle one is kept
        q, k, k_sum = ref_rope(q, 2), ref_rope(k, 2), ref_rope(spread, 2)[:, :, chunk // 2 :: chunk]
    out = ref_summary_attention(q, k, v, k_sum, v_sum, chunk, causal, 1 / q.shape[-1] ** 0.5)
    return ref_merged(x, p, out)


def _decompose_combiner(
    b: Builder,
    x: Value,
    p: Params,
    *,
    heads: int,
    causal: bool,
    norm: str,
    rope: bool,
    chunk: int,
    scope: str | None,
) -> Value:
    """Means of keys and values over each chunk, projected; keys of summaries turned to the middle of their chunk."""
    q, k, v = projected(b, x, p, norm)
    k_sum, v_sum = (
        cut_heads(
            b, b.dense(b.chunk_means(each, chunk=chunk, causal=causal), p[f"{name}.weight"], p[f"{name}.bias"]), heads
        )
        for name, each in (("summary_k", k), ("summary_v", v))
    )
    q, k, v = (cut_heads(b, each, heads) for each in (q, k, v))
    if rope:
        q, k, k_sum = b.rope(q, axis=2), b.rope(k, axis=2), b.rope_of_chunks(k_sum, chunk=chunk)
    out = b.summary_attention(q, k, v, k_sum, v_sum, chunk=chunk, causal=causal, scale=inverse_root(q))
    return merged(b, x, p, out)


def _cost_combiner(ins: Types, outs: Types, *, heads: int, chunk: int, **_: Any) -> Cost:
    x = ins[0]
    assert x is not None
    batch, t, d = x.sizes
    summaries = (Contraction(1, batch * -(-t // chunk), d, d),) * 2
    cost = cost_heads(ins, outs, *summaries, *_summary_products(batch * heads, t, d // heads, d // heads, chunk))
    return replace(cost, flops=cost.flops + _softmax_flops(batch * heads, t, chunk))


combiner = define_op(
    OpDef(
        "combiner",
        ("x",),
        infer_heads,
        _ref_combiner,
        _cost_combiner,
        (
            sample("f32[2, 7, 8]", heads=2, chunk=3),
            sample("f32[2, 7, 8]", heads=2, chunk=3, causal=False, norm="scale_norm"),
            sample("f32[1, 6, 6]", heads=1, chunk=2, causal=False, rope=False),
            sample("f32[1, 3, 4]", heads=1, chunk=5),
            sample("f32[1, 0, 4]", heads=1, chunk=4, causal=False),
        ),
        attrs={**HEADS, "chunk": CHUNK},
        decompose=_decompose_combiner,
        params=_params_combiner,
        scope=SCOPE,
        ignores_padding=where_causal,
        doc="x + softmax attention of norm(x) to the own chunk and to a summary of each other (Appendix A)",
    )
)
