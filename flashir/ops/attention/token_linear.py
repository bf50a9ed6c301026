"""Linear attention token by token (Eq. 6), computed tile by tile.

Axes: b batch, h heads, t length, g tiles, n within a tile, s key, e value. A tile is a way to compute, not part of the
model: within a tile a masked product, between tiles a state that is summed up. Tiles of one token are the loop over
tokens of the paper's Performer; with `cumsum = matmul` they are its Performer-Matmul (Table 10).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.cost import Contraction, Cost, Types, moved
from flashir.ir.op import OpDef, Sample, define_op, flag, sample
from flashir.ir.streaming import States, StreamingRule
from flashir.ir.types import TensorType
from flashir.ops.attention.chunk_choices import CUMSUM, TILE
from flashir.ops.attention.chunks import chunked, chunked_documents, unchunked
from flashir.ops.attention.documents import (
    are_packed,
    are_tokens,
    check_documents,
    document_numbers,
    for_each_head,
    of_one_document,
    ref_numbers,
    ref_seen,
)
from flashir.ops.attention.quadratic import check_heads
from flashir.ops.attention.softmax import until_now
from flashir.ops.decode.chunk_state import sum_after
from flashir.ops.decode.context import DecodeContext, column, under_heads
from flashir.ops.functions.norm import as_dtype
from flashir.ops.layers.multi_head import rows_of_heads
from flashir.ops.primitive.elementwise import floating

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Value


def _infer(q: TensorType, k: TensorType, v: TensorType, documents: TensorType | None = None, **_: Any) -> TensorType:
    check_heads(q, k, v)
    if q.rank != 4:
        raise IRError(f"q, k, v must be [b, h, t, *], got {q}")
    check_documents(documents, q.shape[0], q.shape[2])
    return floating(v)


def ref_token_attention(q: Any, k: Any, v: Any, documents: Any = None, *, causal: bool, **_: Any) -> Any:
    """As `token_linear_attention`, in numpy: all t^2 products."""
    products = np.einsum("bhts,bhms->bhtm", q, k)
    if documents is not None:
        products = products * ref_seen(ref_numbers(documents, q.shape[2]), q.shape[2], 4)
    return (np.tril(products) if causal else products) @ v


def _decompose(
    b: Builder,
    q: Value,
    k: Value,
    v: Value,
    documents: Value | None = None,
    *,
    causal: bool,
    cumsum: str,
    tile: int,
) -> Value:
    """q_t (sum over m <= t of k_m^T v_m): tiles before this one by their sum, this one by tril(q k^T) v"""
    if documents is not None and not are_packed(documents.type):  # padding asks for nothing, and adds nothing
        token = are_tokens(b, document_numbers(b, documents, q.type.shape[2]))
        token = under_heads(b, column(b, token), 4)
        q, k, documents = b.select(token, q, 0.0), b.select(token, k, 0.0), None
    if not causal and documents is None:
        return b.matmul(q, b.matmul(k, v, transpose_x=True))
    rows = [rows_of_heads(b, x) for x in (q, k, v)]
    queries, keys, values = (chunked(b, x, tile) for x in rows)
    if documents is not None:
        documents = chunked_documents(b, for_each_head(b, documents, q.type.shape[1]), tile, values.type.shape[1])
    sums = {"causal": causal, "cumsum": cumsum, "lin_norm": "none"}
    if not causal:  # the own tile is among those that a query sees
        out = b.linear_attention(queries, keys, values, documents=documents, **sums)
    else:
        seen = b.select(until_now(b, tile), b.matmul(queries, keys, transpose_y=True), 0.0)
        if documents is not None:
            token = column(b, are_tokens(b, documents))
            seen = b.select(b.logical_and(token, of_one_document(b, documents, tile)), seen, 0.0)
        before = b.linear_attention(queries, keys, values, documents=documents, **sums)
        out = b.add(b.matmul(seen, values), before)
    return b.reshape(unchunked(b, out, v.type.shape[2]), shape=v.type.shape)


def _after(now: DecodeContext, q: Value, k: Value, v: Value, **_: Any) -> States:
    return {"sum": sum_after(now, k, v)}


def _step(now: DecodeContext, states: States, q: Value, k: Value, v: Value, **_: Any) -> tuple[Value, States]:
    """q_t (the sum after all new tokens - k_m^T v_m of the new m > t), [b, h, t, e]; the sum is [b, h, s, e]"""
    b, dtype = now.b, states["sum"].type.dtype
    queries, keys, values = (as_dtype(b, x, dtype) for x in (q, k, v))
    after = b.add(states["sum"], b.matmul(keys, values, transpose_x=True))
    out = b.matmul(queries, after)
    if now.length != 1:
        later = b.select(until_now(b, now.length), 0.0, b.matmul(queries, keys, transpose_y=True))
        out = b.sub(out, b.matmul(later, values))
    return as_dtype(b, out, v.type.dtype), {"sum": after}


def token_products(
    count: int, t: int, s: int, e: int, causal: bool, cumsum: str, tile: int, documents: TensorType | None = None
) -> tuple[Contraction, ...]:
    """The products of `count` heads: two where not causal, four for each tile where it is; a mask of tiles beside.

    Documents in a row that are seen both ways take those within tiles, and those between tiles of each side.
    """
    packed = documents is not None and are_packed(documents)
    if not causal and not packed:
        return Contraction(count, s, t, e), Contraction(count, t, s, e)
    g = -(-t // tile)
    tiles = count * g
    mask = (Contraction(count, g, g, s * e),) if cumsum == "matmul" or packed else ()
    between = (Contraction(tiles, s, tile, e), Contraction(tiles, tile, s, e), *mask)
    within = (Contraction(tiles, tile, s, tile), Contraction(tiles, tile, tile, e))
    return (*within, *between) if causal else (*within, *between, *between)


def token_steps(t: int, causal: bool, cumsum: str, tile: int) -> int:
    """As many as tiles where a loop carries the state."""
    return -(-t // tile) if causal and cumsum == "scan" else 1


def _cost(ins: Types, outs: Types, causal: bool, cumsum: str, tile: int) -> Cost:
    q, v, traffic = ins[0], ins[2], moved(ins, outs)
    assert q is not None and v is not None
    batch, heads, t, s = q.sizes
    documents = ins[3] if len(ins) > 3 else None
    products = token_products(batch * heads, t, s, v.sizes[-1], causal, cumsum, tile, documents)
    return replace(traffic, flops=2.0 * v.count, steps=token_steps(t, causal, cumsum, tile), contractions=products)


def _samples() -> tuple[Sample, ...]:
    def case(t: int, causal: bool, cumsum: str, tile: int, *documents: str) -> Sample:
        q, v = f"f32[2, 3, {t}, 4]", f"f32[2, 3, {t}, 6]"
        return sample(q, q, v, *documents, causal=causal, cumsum=cumsum, tile=tile)

    several = [
        case(t, True, kind, tile)
        for t, tile in ((7, 3), (6, 3), (4, 1), (2, 5))
        for kind in ("scan", "matmul", "native")
    ]
    plain = (*several, case(0, True, "matmul", 3), case(0, True, "native", 3), case(7, False, "native", 3))
    masked = (case(7, True, "native", 3, "bool[2, 7]"), case(7, False, "native", 3, "bool[2, 6]"))
    return (*plain, *masked, case(0, True, "scan", 3, "bool[2, 0]"))


token_linear_attention = define_op(
    OpDef(
        "token_linear_attention",
        ("q", "k", "v", "documents?"),
        _infer,
        ref_token_attention,
        _cost,
        _samples(),
        attrs={"causal": flag(), "cumsum": CUMSUM, "tile": TILE},
        decompose=_decompose,
        stream=StreamingRule(_step, _after),
        doc="q_t (sum of k_m^T v_m over all m, or m <= t where causal) over [b, h, t, s], divided by nothing (Eq. 6)",
    )
)
