"""Mixed chunk attention in many heads, the attention of MC-TFM++ (Section 4.3): softmax within chunks, linear between.

Axes: b batch, h heads, t length, g chunks, n and m within a chunk, s key, e value.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.cost import Contraction, Cost, Types, moved
from flashir.ir.dims import Size, divides
from flashir.ir.op import AttrSpec, OpDef, define_op, flag, integer, number, sample
from flashir.ir.streaming import States, StreamingRule
from flashir.ir.traits import where_causal
from flashir.ir.types import TensorType
from flashir.ops.attention.chunk_choices import CUMSUM, chunk_size
from flashir.ops.attention.chunks import chunked, chunked_documents, unchunked
from flashir.ops.attention.documents import (
    are_packed,
    check_documents,
    clear_padding,
    document_numbers,
    for_each_head,
    mask_scores,
    ref_numbers,
)
from flashir.ops.attention.linear import LIN_NORM
from flashir.ops.attention.linear_documents import ref_between
from flashir.ops.attention.quadratic import check_heads
from flashir.ops.attention.softmax import SOFTMAX_WEIGHT, ref_softmax_attention, until_now
from flashir.ops.attention.token_linear import token_products
from flashir.ops.decode.chunk_state import chunks_after, chunks_step
from flashir.ops.decode.context import DecodeContext
from flashir.ops.layers.blocks import Params
from flashir.ops.layers.multi_head import (
    HEADS,
    SCOPE,
    cost_heads,
    head_params,
    infer_heads,
    inverse_root,
    multi_head,
    ref_multi_head,
    rows_of_heads,
)
from flashir.ops.primitive.elementwise import floating

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Value

CHUNK = chunk_size("tokens that attend to each other one by one")
SCALE = number(1.0, doc="what q k^T is multiplied by; 1 / sqrt(s) in MHSA")


def _infer_mixed(
    q: TensorType, k: TensorType, v: TensorType, documents: TensorType | None = None, **_: Any
) -> TensorType:
    check_heads(q, k, v)
    if q.rank != 4:
        raise IRError(f"q, k, v must be [b, h, t, *], got {q}")
    check_documents(documents, q.shape[0], q.shape[2])
    return floating(v)


def tokens_of_chunks(b: Builder, length: Size, n: int, chunks: Size) -> Value:
    """bool [g, 1, m]: whether position m of a chunk is a token, not what pads the last one"""
    return b.reshape(b.less(b.iota(length=chunks * n), b.size(value=length)), shape=(chunks, 1, n))


def ref_mixed_heads(
    q: Any,
    k: Any,
    v: Any,
    documents: Any = None,
    *,
    chunk: int,
    causal: bool,
    scale: float,
    lin_norm: str,
    **_: Any,
) -> Any:
    """As `mixed_head_attention`, in numpy: chunk by chunk, the last one shorter."""
    spans = [slice(start, min(start + chunk, q.shape[2])) for start in range(0, q.shape[2], chunk)]
    states = [np.einsum("bhns,bhne->bhse", k[:, :, at], v[:, :, at]) for at in spans]
    out = np.zeros_like(v)
    if documents is not None:
        numbers = ref_numbers(documents, q.shape[2])
        for at in spans:
            own = numbers[:, at]
            out[:, :, at] = ref_softmax_attention(
                q[:, :, at], k[:, :, at], v[:, :, at], own, causal=causal, scale=scale
            )
        how: dict[str, Any] = {"chunk": chunk, "causal": causal, "lin_norm": lin_norm}
        each_head = range(q.shape[1])
        far = [ref_between(q[:, h] * scale, k[:, h], v[:, h], documents, **how) for h in each_head]
        return out + np.stack(far, axis=1)
    for g, at in enumerate(spans):
        out[:, :, at] = ref_softmax_attention(q[:, :, at], k[:, :, at], v[:, :, at], causal=causal, scale=scale)
        seen = states[:g] if causal else states
        norm = {"none": 1, "chunk": chunk, "chunk_mean": chunk * max(len(seen), 1)}[lin_norm]
        if seen:
            out[:, :, at] += scale / norm * q[:, :, at] @ np.sum(seen, axis=0)
    return out


def _decompose_mixed(
    b: Builder,
    q: Value,
    k: Value,
    v: Value,
    documents: Value | None = None,
    *,
    chunk: int,
    causal: bool,
    cumsum: str,
    lin_norm: str,
    scale: float,
) -> Value:
    """softmax(q k^T) v within each chunk + q (k^T v of the chunks that it sees)"""
    length = q.type.shape[2]
    queries, keys, values = (chunked(b, rows_of_heads(b, x), chunk) for x in (b.mul(q, scale), k, v))
    scores = b.matmul(queries, keys, transpose_y=True)
    if causal:
        scores = b.select(until_now(b, chunk), scores, float("-inf"))
    elif documents is None and not divides(chunk, length):
        scores = b.select(tokens_of_chunks(b, length, chunk, queries.type.shape[1]), scores, float("-inf"))
    if documents is None:
        local = b.matmul(b.softmax(scores), values)
    else:
        documents = chunked_documents(b, for_each_head(b, documents, q.type.shape[1]), chunk, queries.type.shape[1])
        numbers = document_numbers(b, documents, chunk)
        local = clear_padding(b, b.matmul(b.softmax(mask_scores(b, scores, numbers)), values), numbers)
    sums = {"causal": causal, "cumsum": cumsum, "lin_norm": lin_norm}
    distant = b.linear_attention(queries, keys, values, documents=documents, **sums)
    return b.reshape(unchunked(b, b.add(local, distant), length), shape=v.type.shape)


def _after(now: DecodeContext, q: Value, k: Value, v: Value, *, chunk: int, **_: Any) -> States:
    return chunks_after(now, v, {"k": k}, "k", chunk)


def _step(
    now: DecodeContext,
    states: States,
    q: Value,
    k: Value,
    v: Value,
    *,
    chunk: int,
    lin_norm: str,
    scale: float,
    **_: Any,
) -> tuple[Value, States]:
    part = (now.b.mul(q, scale), "k")
    return chunks_step(now, states, v, {"k": k}, part, part, chunk=chunk, lin_norm=lin_norm, kernel="softmax")


def _products(
    count: int, t: int, s: int, e: int, n: int, causal: bool, cumsum: str, documents: TensorType | None = None
) -> tuple[Contraction, ...]:
    g = -(-t // n)
    if not causal and documents is not None and are_packed(documents):  # both sides, and within chunks both parts
        local = (Contraction(count * g, n, s, n), Contraction(count * g, n, n, e))
        return (*local, *token_products(count, t, s, e, causal, cumsum, n, documents))
    chunks = count * g
    states = Contraction(chunks, s, n, e) if causal else Contraction(count, s, g * n, e)
    mask = (Contraction(count, g, g, s * e),) if causal and cumsum == "matmul" else ()
    local = (Contraction(chunks, n, s, n), Contraction(chunks, n, n, e))
    return (*local, states, Contraction(chunks, n, s, e), *mask)


def _steps(t: int, n: int, causal: bool, cumsum: str) -> int:
    return -(-t // n) if causal and cumsum == "scan" else 1


def _cost_mixed(ins: Types, outs: Types, chunk: int, causal: bool, cumsum: str, **_: Any) -> Cost:
    q, v, traffic = ins[0], ins[2], moved(ins, outs)
    assert q is not None and v is not None
    batch, heads, t, s = q.sizes
    return replace(
        traffic,
        flops=float(SOFTMAX_WEIGHT) * batch * heads * t * chunk,
        steps=_steps(t, chunk, causal, cumsum),
        contractions=_products(
            batch * heads, t, s, v.sizes[-1], chunk, causal, cumsum, ins[3] if len(ins) > 3 else None
        ),
    )


_HEADS = ("f32[2, 3, 7, 4]", "f32[2, 3, 7, 4]", "f32[2, 3, 7, 6]")
MIXED: dict[str, AttrSpec] = {"cumsum": CUMSUM, "lin_norm": LIN_NORM}

mixed_head_attention = define_op(
    OpDef(
        "mixed_head_attention",
        ("q", "k", "v", "documents?"),
        _infer_mixed,
        ref_mixed_heads,
        _cost_mixed,
        tuple(
            sample(
                *_HEADS,
                chunk=chunk,
                causal=causal,
                cumsum=kind,
                lin_norm=norm,
                scale=0.5,
            )
            for causal in (True, False)
            for chunk, kind, norm in ((3, "scan", "none"), (7, "matmul", "chunk"), (2, "native", "chunk_mean"))
        )
        + tuple(
            sample(*_HEADS, "bool[2, 7]", chunk=3, causal=causal, cumsum=kind, lin_norm="chunk_mean", scale=0.5)
            for causal in (True, False)
            for kind in ("scan", "native")
        ),
        attrs={"chunk": integer(least=1), "causal": flag(), **MIXED, "scale": SCALE},
        decompose=_decompose_mixed,
        stream=StreamingRule(_step, _after),
        doc="softmax attention within each chunk plus linear attention between chunks, over [b, h, t, s]",
    )
)


def _ref_mc_mhsa(
    x: Any, documents: Any = None, *, p: Params, chunk: int, causal: bool, lin_norm: str, **attrs: Any
) -> Any:
    def attend(q: Any, k: Any, v: Any) -> Any:
        how: dict[str, Any] = {"chunk": chunk, "causal": causal, "lin_norm": lin_norm}
        return ref_mixed_heads(q, k, v, documents, scale=1 / q.shape[-1] ** 0.5, **how)

    return ref_multi_head(x, p, attend, **attrs)


def _decompose_mc_mhsa(
    b: Builder,
    x: Value,
    documents: Value | None = None,
    *,
    p: Params,
    heads: int,
    norm: str,
    rope: bool,
    scope: str | None,
    **attrs: Any,
) -> Value:
    def attend(q: Value, k: Value, v: Value) -> Value:
        return b.mixed_head_attention(q, k, v, documents, scale=inverse_root(q), **attrs)

    return multi_head(b, x, p, attend, heads=heads, norm=norm, rope=rope)


def _cost_mc_mhsa(ins: Types, outs: Types, *, heads: int, chunk: int, causal: bool, cumsum: str, **_: Any) -> Cost:
    x = ins[0]
    assert x is not None
    batch, t, d = x.sizes
    s = d // heads
    documents = ins[1] if len(ins) > 1 else None
    cost = cost_heads(ins, outs, *_products(batch * heads, t, s, s, chunk, causal, cumsum, documents))
    flops = cost.flops + float(SOFTMAX_WEIGHT) * batch * heads * t * chunk
    return replace(cost, flops=flops, steps=_steps(t, chunk, causal, cumsum))


mc_mhsa = define_op(
    OpDef(
        "mc_mhsa",
        ("x", "documents?"),
        infer_heads,
        _ref_mc_mhsa,
        _cost_mc_mhsa,
        (
            sample("f32[2, 7, 8]", heads=2, chunk=3, cumsum="scan"),
            sample("f32[2, 6, 8]", heads=2, chunk=3, cumsum="matmul", norm="scale_norm", lin_norm="chunk"),
            sample("f32[1, 7, 6]", heads=1, chunk=4, cumsum="native", causal=False, rope=False, lin_norm="none"),
            sample("f32[1, 0, 4]", heads=1, chunk=4, cumsum="native"),
            sample("f32[2, 7, 8]", "bool[2, 7]", heads=2, chunk=3, cumsum="scan"),
            sample("f32[2, 7, 8]", "bool[2, 6]", heads=2, chunk=3, cumsum="native", causal=False),
        ),
        attrs={**HEADS, "chunk": CHUNK, **MIXED},
        decompose=_decompose_mc_mhsa,
        params=head_params,
        scope=SCOPE,
        ignores_padding=where_causal,
        doc="x + mixed chunk attention of norm(x) in many heads, the same queries and keys for both parts (MC-TFM++)",
    )
)
