"""The chunked recurrence, which all layers of FLASH share: attention within chunks, and a state summed between them.

Each part may be absent. In the local part, tokens of a chunk attend to each other: kernel(quad_q quad_k^T + bias) v. In
the global part, lin_q of a token multiplies the sum of lin_k^T v over the tokens of earlier chunks, or with
`chunk = none` over all tokens up to itself. The state may decay:

    mixed chunk attention (Code 8)       both parts, relu2, a bias
    MC-TFM++ (section 4.3)               both parts, softmax, heads, shared queries and keys
    linear attention (Eq. 6), Performer  only the global part, chunk = none
    retention, gated linear attention    the same, with a decay

Axes: b batch, h heads, t length, g chunks, n within a chunk, s key, e value. Queries are already scaled.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from flashir.errors import IRError
from flashir.ir.cost import Contraction, Cost, Types, moved
from flashir.ir.graph import Node, Value
from flashir.ir.op import OpDef, choice, define_op, flag, integer
from flashir.ir.streaming import States, StreamingRule
from flashir.ir.types import TensorType
from flashir.ops.attention.chunk_choices import CUMSUM, TILE
from flashir.ops.attention.chunks import check_segments_and_documents
from flashir.ops.attention.documents import are_packed, check_documents
from flashir.ops.attention.linear import LIN_NORM
from flashir.ops.attention.quadratic import KERNEL_WEIGHT, KERNELS, check_bias, check_heads
from flashir.ops.attention.recurrence_parts import decompose_recurrence
from flashir.ops.attention.recurrence_reference import ref_recurrence
from flashir.ops.attention.recurrence_samples import recurrence_samples
from flashir.ops.decode.chunk_state import chunks_after, chunks_step, seen_at_once, sum_after, sum_step
from flashir.ops.decode.context import DecodeContext
from flashir.ops.functions.norm import accumulation_dtype
from flashir.ops.primitive.elementwise import floating

OPERANDS = ("v", "quad_q?", "quad_k?", "bias?", "lin_q?", "lin_k?", "decay?", "segment_ids?", "documents?")


def _infer(
    v: TensorType,
    quad_q: TensorType | None = None,
    quad_k: TensorType | None = None,
    bias: TensorType | None = None,
    lin_q: TensorType | None = None,
    lin_k: TensorType | None = None,
    decay: TensorType | None = None,
    segment_ids: TensorType | None = None,
    documents: TensorType | None = None,
    *,
    chunk: int | None,
    causal: bool,
    cumsum: str,
    lin_norm: str,
    overlap: bool,
    kernel: str,
    **_: Any,
) -> TensorType:
    if v.rank not in (3, 4):
        raise IRError(f"queries, keys and v must be [b, t, *], or [b, h, t, *] with heads, got {v}")
    if quad_q is None and lin_q is None:
        raise IRError("quad_q or lin_q is required: the local part, the global part, or both")
    if quad_q is not None:
        _check_local(v, quad_q, quad_k, bias, chunk, overlap, kernel)
    if lin_q is not None:
        if lin_k is None:
            raise IRError("lin_q requires lin_k")
        check_heads(lin_q, lin_k, v)
    if decay is not None:
        _check_decay(decay, v, causal, cumsum, lin_q is not None)
    if chunk is None and lin_norm != "none":
        raise IRError(f"lin_norm must be 'none' without a chunk, got {lin_norm!r}")
    if segment_ids is not None and (v.rank == 4 or chunk is None):
        raise IRError("segment_ids require a chunk and no heads; give documents instead")
    if v.rank == 3:
        check_segments_and_documents(segment_ids, documents, v)
    check_documents(documents, v.shape[0], v.shape[-2])
    return floating(v)


def _check_local(
    v: TensorType,
    q: TensorType,
    k: TensorType | None,
    bias: TensorType | None,
    chunk: int | None,
    overlap: bool,
    kernel: str,
) -> None:
    if k is None:
        raise IRError("quad_q requires quad_k")
    if chunk is None:
        raise IRError("the local part requires a chunk")
    check_heads(q, k, v)
    if overlap and (bias is None or kernel == "identity"):
        raise IRError(f"overlap requires a bias and a kernel other than identity, got {kernel} and {bias or 'no bias'}")
    if bias is not None:
        span = seen_at_once(chunk, overlap)
        check_bias(bias, v, span, span)


def _check_decay(decay: TensorType, v: TensorType, causal: bool, cumsum: str, is_global: bool) -> None:
    heads = v.shape[1 : v.rank - 2]
    wanted = [TensorType(accumulation_dtype(v.dtype), shape) for shape in (heads, v.shape[:-1])]
    if decay not in wanted:
        raise IRError(f"decay must be {wanted[0]}, or {wanted[1]} per token, got {decay}")
    if not causal:
        raise IRError("decay requires causal = true")
    if not is_global:
        raise IRError("decay requires the global part, lin_q")
    if cumsum == "native":
        raise IRError("decay is not available with cumsum = native", hint="use cumsum = scan or matmul")


def _after(
    now: DecodeContext,
    v: Value,
    quad_q: Value | None = None,
    quad_k: Value | None = None,
    bias: Value | None = None,
    lin_q: Value | None = None,
    lin_k: Value | None = None,
    decay: Value | None = None,
    *,
    chunk: int | None,
    overlap: bool,
    **_: Any,
) -> States:
    if chunk is None:
        assert lin_k is not None
        return {"sum": sum_after(now, lin_k, v, decay)}
    _check_decoded(decay)
    keys, _local, far = _keys(quad_k, lin_k)
    return chunks_after(now, v, keys, far, chunk, overlap)


def _step(
    now: DecodeContext,
    states: States,
    v: Value,
    quad_q: Value | None = None,
    quad_k: Value | None = None,
    bias: Value | None = None,
    lin_q: Value | None = None,
    lin_k: Value | None = None,
    decay: Value | None = None,
    *,
    chunk: int | None,
    lin_norm: str,
    overlap: bool,
    kernel: str,
    **_: Any,
) -> tuple[Value, States]:
    if chunk is None:
        assert lin_q is not None and lin_k is not None
        return sum_step(now, states, lin_q, lin_k, v, decay)
    _check_decoded(decay)
    keys, near, far = _keys(quad_k, lin_k)
    local = None if quad_q is None or near is None else (quad_q, near)
    distant = None if lin_q is None or far is None else (lin_q, far)
    settings: dict[str, Any] = {"chunk": chunk, "lin_norm": lin_norm, "overlap": overlap, "bias": bias}
    return chunks_step(now, states, v, keys, local, distant, kernel=kernel, **settings)


def _check_decoded(decay: Value | None) -> None:
    if decay is not None:
        raise IRError("a decay can be decoded only with chunk = none")


def _keys(quad_k: Value | None, lin_k: Value | None) -> tuple[dict[str, Value], str | None, str | None]:
    """The keys that are states, by name, and the names of those of the local and of the global part."""
    if quad_k is not None and quad_k is lin_k:
        return {"k": quad_k}, "k", "k"
    keys = {name: k for name, k in (("quad_k", quad_k), ("lin_k", lin_k)) if k is not None}
    return keys, "quad_k" if "quad_k" in keys else None, "lin_k" if "lin_k" in keys else None


def is_mixed_chunk(node: Node) -> bool:
    """Whether a node is mixed chunk attention (Code 8) without segments, for which there are fused kernels."""
    operands, attrs = node.inputs, node.attrs
    plain = attrs["chunk"] is not None and attrs["kernel"] == "relu2" and not attrs["overlap"]
    return plain and len(operands) == 6 and None not in operands and node.output.type.rank == 3


def token_products(
    count: int, t: int, s: int, e: int, causal: bool, cumsum: str, tile: int, documents: TensorType | None = None
) -> tuple[Contraction, ...]:
    """The products of `count` heads: two if not causal, four per tile if causal, and one with a mask of tiles.

    Bidirectional packed documents need products within tiles, and between tiles on both sides.
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


def recurrence_steps(t: int, causal: bool, cumsum: str, n: int) -> int:
    """Sequential steps: the number of chunks if a loop carries the state, otherwise 1."""
    return -(-t // n) if causal and cumsum == "scan" else 1


def _cost(
    ins: Types,
    outs: Types,
    chunk: int | None,
    tile: int,
    causal: bool,
    cumsum: str,
    overlap: bool,
    kernel: str,
    **_: Any,
) -> Cost:
    v, local, far, documents = (ins[at] if len(ins) > at else None for at in (0, 1, 4, 8))
    traffic = moved(ins, outs)
    assert v is not None
    *lead, length, e = v.sizes
    count = prod(lead)
    if chunk is None:
        assert far is not None
        alone = token_products(count, length, far.sizes[-1], e, causal, cumsum, tile, documents)
        steps = recurrence_steps(length, causal, cumsum, tile)
        return Cost(2.0 * v.count, traffic.read, traffic.written, steps, alone)
    chunks = count * -(-length // chunk)
    products: tuple[Contraction, ...] = ()
    flops = 0.0
    if local is not None:
        m = seen_at_once(chunk, overlap)
        products += (Contraction(chunks, chunk, local.sizes[-1], m), Contraction(chunks, chunk, m, e))
        flops += WEIGHT[kernel] * chunks * chunk * m
    if far is not None:
        s = far.sizes[-1]
        products += (between := (Contraction(chunks, s, chunk, e), Contraction(chunks, chunk, s, e)))
        if documents is not None and are_packed(documents) and not causal:  # earlier, later and own chunk
            products += (*between, Contraction(chunks, chunk, s, chunk), Contraction(chunks, chunk, chunk, e))
        flops += float(chunks * s * e)
    steps = recurrence_steps(length, True, cumsum, chunk) if far is not None else 1
    return Cost(flops, traffic.read, traffic.written, steps, products)


WEIGHT = {**KERNEL_WEIGHT, "identity": 1.0}
"""Operations per score, by kernel."""


chunked_recurrence = define_op(
    OpDef(
        "chunked_recurrence",
        OPERANDS,
        infer=_infer,
        ref=ref_recurrence,
        cost=_cost,
        samples=recurrence_samples(),
        attrs={
            "chunk": integer(None, least=1, doc="tokens per chunk; none: a token sees all tokens up to itself"),
            "tile": replace(TILE, default=1),
            "causal": flag(),
            "cumsum": CUMSUM,
            "lin_norm": LIN_NORM,
            "overlap": flag(False, doc="each chunk also attends to the one before (section 3.2.1)"),
            "kernel": choice(*KERNELS, "identity", default="relu2", doc="the function of the scores within chunks"),
        },
        decompose=decompose_recurrence,
        stream=StreamingRule(_step, _after),
        doc="attention within chunks plus a sum of k^T v between them, over [b, t, *] or [b, h, t, *]; "
        "decay is the log of the factor of the sum at each token, constant per head or given per token",
    )
)
