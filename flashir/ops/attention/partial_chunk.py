"""The parts of mixed chunk attention by themselves, and with chunks that overlap: what the ablations of FLASH take.

Axes: b batch, t length, g chunks, n within a chunk, s key, e expanded. Queries come scaled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.cost import Contraction, Cost, Types, moved
from flashir.ir.op import OpDef, define_op, flag, integer, sample
from flashir.ir.streaming import States, StreamingRule
from flashir.ir.types import DType, TensorType
from flashir.ops.attention.chunk_choices import CUMSUM
from flashir.ops.attention.chunks import check_told, chunked, chunked_documents, overlapping_chunks, unchunked
from flashir.ops.attention.documents import clear_padding, document_numbers, of_one_document, ref_numbers, ref_seen
from flashir.ops.attention.linear import LIN_NORM
from flashir.ops.attention.mixed_chunk import ref_mixed, told_of_padding
from flashir.ops.attention.quadratic import KERNEL, KERNEL_WEIGHT, check_bias, check_heads
from flashir.ops.decode.chunk_state import chunks_after, chunks_step, seen_at_once
from flashir.ops.decode.context import DecodeContext

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Value

OPERANDS = ("v", "quad_q?", "quad_k?", "bias?", "lin_q?", "lin_k?", "segment_ids?", "documents?")


def _infer(
    v: TensorType,
    quad_q: TensorType | None = None,
    quad_k: TensorType | None = None,
    bias: TensorType | None = None,
    lin_q: TensorType | None = None,
    lin_k: TensorType | None = None,
    segment_ids: TensorType | None = None,
    documents: TensorType | None = None,
    *,
    chunk: int,
    overlap: bool,
    **_: Any,
) -> TensorType:
    if v.rank != 3:
        raise IRError(f"queries, keys and v must be [b, t, *], got {v}")
    if quad_q is None and lin_q is None:
        raise IRError("there must be queries of the local part, of the global part, or of both")
    if quad_q is not None:
        if quad_k is None or bias is None:
            raise IRError("queries of the local part need keys and a bias")
        check_heads(quad_q, quad_k, v)
        check_bias(bias, v, seen_at_once(chunk, overlap), seen_at_once(chunk, overlap))
    if lin_q is not None:
        if lin_k is None:
            raise IRError("queries of the global part need keys")
        check_heads(lin_q, lin_k, v)
    check_told(segment_ids, documents, v)
    return v


def _ref(
    v: Any,
    quad_q: Any = None,
    quad_k: Any = None,
    bias: Any = None,
    lin_q: Any = None,
    lin_k: Any = None,
    segment_ids: Any = None,
    documents: Any = None,
    *,
    chunk: int,
    overlap: bool,
    **attrs: Any,
) -> Any:
    """As the whole, where keys of the part that is off are 0, and a bias below 0 makes weights of nothing."""
    nothing = np.zeros((*v.shape[:2], 1))
    span = seen_at_once(chunk, overlap)
    attrs["kernel"] = "relu2" if quad_q is None else attrs["kernel"]
    quad_q, quad_k = (nothing, nothing) if quad_q is None else (quad_q, quad_k)
    lin_q, lin_k = (nothing, nothing) if lin_q is None else (lin_q, lin_k)
    bias = np.full((span, span), -1.0) if bias is None else bias
    told = (segment_ids, documents)
    return ref_mixed(quad_q, quad_k, lin_q, lin_k, v, bias, *told, chunk=chunk, overlap=overlap, **attrs)


def _decompose(
    b: Builder,
    v: Value,
    quad_q: Value | None = None,
    quad_k: Value | None = None,
    bias: Value | None = None,
    lin_q: Value | None = None,
    lin_k: Value | None = None,
    segment_ids: Value | None = None,
    documents: Value | None = None,
    *,
    chunk: int,
    causal: bool,
    cumsum: str,
    lin_norm: str,
    overlap: bool,
    kernel: str,
) -> Value:
    """What is on of local and global, over [b, g, chunk, *]"""
    values = chunked(b, v, chunk)
    chunks = values.type.shape[1]
    near = documents if documents is not None else told_of_padding(b, v, chunk, causal, kernel)
    near = None if near is None else chunked_documents(b, near, chunk, chunks)
    documents = None if documents is None else chunked_documents(b, documents, chunk, chunks)
    made = []
    if quad_q is not None and quad_k is not None and bias is not None:
        q, k = chunked(b, quad_q, chunk), chunked(b, quad_k, chunk)
        made.append(local_part(b, q, k, values, bias, near, causal, overlap, kernel))
    if lin_q is not None and lin_k is not None:
        visible = overlapping_chunks(b, segment_ids, chunk, chunks, documents)
        q, k = chunked(b, lin_q, chunk), chunked(b, lin_k, chunk)
        sums = {"causal": causal, "cumsum": cumsum, "lin_norm": lin_norm}
        made.append(b.linear_attention(q, k, values, visible, None, documents, **sums))
    return unchunked(b, made[0] if len(made) == 1 else b.add(*made), v.type.shape[1])


def local_part(
    b: Builder,
    q: Value,
    k: Value,
    v: Value,
    bias: Value,
    documents: Value | None,
    causal: bool,
    overlap: bool,
    kernel: str,
) -> Value:
    """Quadratic attention within each chunk; with `overlap`, to the chunk before as well (section 3.2.1)."""
    if overlap:
        if kernel == "softmax" and documents is None:  # it would count what stands before the first chunk
            documents = b.broadcast(b.constant(True, DType.BOOL), shape=q.type.shape[:3])
        span, chunk = bias.type.shape[0], q.type.shape[2]
        k, v = (b.concat(_one_on(b, x), x, axis=2) for x in (k, v))
        bias = b.slice(bias, axis=0, start=chunk, stop=span)
        documents = None if documents is None else b.concat(_one_on(b, documents), documents, axis=2)
    return b.quadratic_attention(q, k, v, bias, documents, causal=causal, kernel=kernel)


def own_part(b: Builder, q: Value, k: Value, v: Value, documents: Value | None, chunk: int, lin_norm: str) -> Value:
    """Linear attention of each chunk to itself alone, [b, t, *]: q (k^T v), divided by the chunk unless it is a sum"""
    length = v.type.shape[1]
    queries, keys, values = (chunked(b, x, chunk) for x in (q, k, v))
    keys = keys if lin_norm == "none" else b.mul(keys, 1.0 / chunk)
    if documents is None:
        made = b.matmul(queries, b.matmul(keys, values, transpose_x=True))
    else:  # documents may share a chunk
        numbers = document_numbers(b, chunked_documents(b, documents, chunk, values.type.shape[1]), chunk)
        same = of_one_document(b, numbers, chunk)
        scores = b.select(same, b.matmul(queries, keys, transpose_y=True), 0.0)
        made = clear_padding(b, b.matmul(scores, values), numbers)
    return unchunked(b, made, length)


def ref_own(q: Any, k: Any, v: Any, documents: Any, chunk: int) -> Any:
    """As `own_part`, in numpy."""
    out = np.zeros_like(v)
    for start in range(0, v.shape[1], chunk):
        at = slice(start, start + chunk)
        seen = 1 if documents is None else ref_seen(ref_numbers(documents, v.shape[1]), v.shape[1], 3)[:, at, at]
        out[:, at] = (q[:, at] @ k[:, at].swapaxes(1, 2) * seen) @ v[:, at]
    return out


def _one_on(b: Builder, x: Value) -> Value:
    """[b, g, n, *], each chunk in the place of the next; zeros, which add nothing, in the first."""
    return b.slice(b.pad(x, axis=1, before=1), axis=1, stop=x.type.shape[1])


def _keys(quad_k: Value | None, lin_k: Value | None) -> dict[str, Value]:
    return {name: k for name, k in (("quad_k", quad_k), ("lin_k", lin_k)) if k is not None}


def _after(
    now: DecodeContext,
    v: Value,
    quad_q: Value | None = None,
    quad_k: Value | None = None,
    bias: Value | None = None,
    lin_q: Value | None = None,
    lin_k: Value | None = None,
    *,
    chunk: int,
    overlap: bool,
    **_: Any,
) -> States:
    return chunks_after(now, v, _keys(quad_k, lin_k), None if lin_k is None else "lin_k", chunk, overlap)


def _step(
    now: DecodeContext,
    states: States,
    v: Value,
    quad_q: Value | None = None,
    quad_k: Value | None = None,
    bias: Value | None = None,
    lin_q: Value | None = None,
    lin_k: Value | None = None,
    *,
    chunk: int,
    lin_norm: str,
    overlap: bool,
    kernel: str,
    **_: Any,
) -> tuple[Value, States]:
    local = None if quad_q is None else (quad_q, "quad_k")
    far = None if lin_q is None else (lin_q, "lin_k")
    settings: dict[str, Any] = {"chunk": chunk, "lin_norm": lin_norm, "overlap": overlap, "bias": bias}
    return chunks_step(now, states, v, _keys(quad_k, lin_k), local, far, kernel=kernel, **settings)


def _cost(ins: Types, outs: Types, chunk: int, cumsum: str, overlap: bool, kernel: str, **_: Any) -> Cost:
    v, local, far = ins[0], ins[1] if len(ins) > 1 else None, ins[4] if len(ins) > 4 else None
    assert v is not None
    batch, length, e = v.sizes
    g, n, traffic = -(-length // chunk), seen_at_once(chunk, overlap), moved(ins, outs)
    products: tuple[Contraction, ...] = ()
    flops = 0.0
    if local is not None:
        products += (Contraction(batch * g, chunk, local.sizes[-1], n), Contraction(batch * g, chunk, n, e))
        flops += batch * g * KERNEL_WEIGHT[kernel] * chunk * n
    if far is not None:
        s = far.sizes[-1]
        products += (Contraction(batch * g, s, chunk, e), Contraction(batch * g, chunk, s, e))
        flops += float(batch * g * s * e)
    steps = g if far is not None and cumsum == "scan" else 1
    return Cost(flops, traffic.read, traffic.written, steps, products)


def _samples() -> tuple[Any, ...]:
    heads, v = ("f32[2, 7, 4]",) * 2, "f32[2, 7, 6]"
    square, wide = "f32[3, 3]", "f32[6, 6]"
    parts: tuple[tuple[tuple[str | None, ...], dict[str, Any]], ...] = (
        ((*heads, square), {}),
        ((*heads, wide), {"overlap": True}),
        ((*heads, wide, *heads), {"overlap": True, "cumsum": "native"}),
        ((None, None, None, *heads), {"cumsum": "scan", "lin_norm": "chunk"}),
        ((None, None, None, *heads, "i32[2, 7]"), {"cumsum": "matmul"}),
        ((*heads, wide, *heads, None, "bool[2, 7]"), {"overlap": True, "cumsum": "native"}),
        ((*heads, square, None, None, None, "bool[2, 6]"), {}),
        ((None, None, None, *heads, "i32[2, 7]", "bool[2, 7]"), {"cumsum": "matmul"}),
        ((*heads, wide, *heads), {"overlap": True, "kernel": "softmax"}),
        ((*heads, square), {"kernel": "softmax"}),
        ((*heads, wide), {"overlap": True, "kernel": "laplace"}),
    )
    each = ((operands, {"cumsum": "matmul", **attrs}) for operands, attrs in parts)
    return tuple(
        sample(v, *operands, chunk=3, causal=causal, **attrs) for operands, attrs in each for causal in (True, False)
    )


partial_chunk_attention = define_op(
    OpDef(
        "partial_chunk_attention",
        OPERANDS,
        _infer,
        _ref,
        _cost,
        _samples(),
        attrs={
            "chunk": integer(least=1),
            "causal": flag(),
            "cumsum": CUMSUM,
            "lin_norm": LIN_NORM,
            "overlap": flag(False, doc="each chunk also sees the one before (section 3.2.1)"),
            "kernel": KERNEL,
        },
        decompose=_decompose,
        stream=StreamingRule(_step, _after),
        doc="quadratic attention within chunks, linear attention between chunks, or both; chunks may overlap",
    )
)
