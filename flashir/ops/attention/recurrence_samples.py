"""Cases for the generated tests of the chunked recurrence: parts, kernels, strategies, masks, heads and decay."""

from __future__ import annotations

from typing import Any

from flashir.ir.op import Sample, sample

Q = ("f32[2, 7, 4]",) * 2
"""Queries and keys of one part, without heads."""

BIAS, WIDE_BIAS = "f32[3, 3]", "f32[6, 6]"
"""The bias of a chunk of 3 tokens, alone and with the chunk before."""

NO_LOCAL = (None, None, None)
BOTH_PARTS = ("q", "q", None, "q", "q")
SOFTMAX: dict[str, Any] = {"kernel": "softmax"}
GLOBAL_ALONE: dict[str, Any] = {"lin_norm": "none"}


def recurrence_samples() -> tuple[Sample, ...]:
    """All cases."""
    return (*_mixed_chunks(), *_parts(), *_with_heads(), *_token_by_token(), *_decaying())


def _flat(*operands: str | None, **attrs: Any) -> list[Sample]:
    """A causal and a bidirectional case of v [2, 7, 6], in chunks of 3."""
    settings = {"chunk": 3, "cumsum": "matmul", **attrs}
    return [sample("f32[2, 7, 6]", *operands, **settings, causal=causal) for causal in (True, False)]


def _heads(t: int, *rest: str | None, causal: bool = True, **attrs: Any) -> Sample:
    """A case of v [2, 3, t, 6]; an operand `q` has the shape of queries and keys."""
    q, v = f"f32[2, 3, {t}, 4]", f"f32[2, 3, {t}, 6]"
    return sample(v, *(None if x is None else {"q": q}.get(x, x) for x in rest), causal=causal, **attrs)


def _mixed_chunks() -> list[Sample]:
    """Mixed chunk attention (Code 8), with masks."""
    return [
        case
        for kind, norm in (("scan", "none"), ("matmul", "chunk"), ("native", "chunk_mean"))
        for masks in ((), (None, "i32[2, 7]"), (None, None, "bool[2, 7]"), (None, "i32[2, 7]", "bool[2, 7]"))
        for case in _flat(*Q, BIAS, *Q, *masks, cumsum=kind, lin_norm=norm)
    ]


def _parts() -> list[Sample]:
    """One part alone, other kernels, and overlapping chunks."""
    return [
        *_flat(*Q, BIAS),
        *_flat(*Q, BIAS, kernel="softmax"),
        *_flat(*Q, BIAS, kernel="identity"),
        *_flat(*Q, WIDE_BIAS, overlap=True),
        *_flat(*Q, WIDE_BIAS, *Q, overlap=True, kernel="softmax"),
        *_flat(*Q, WIDE_BIAS, overlap=True, kernel="laplace"),
        *_flat(*Q, BIAS, *Q, kernel="laplace"),
        *_flat(*Q, BIAS, *Q, None, None, "bool[2, 7]", kernel="softmax"),
        *_flat(*Q, WIDE_BIAS, *Q, overlap=True, cumsum="native"),
        *_flat(*NO_LOCAL, *Q, cumsum="scan", lin_norm="chunk"),
        *_flat(*NO_LOCAL, *Q, None, "i32[2, 7]"),
        *_flat(*Q, WIDE_BIAS, *Q, None, None, "bool[2, 7]", overlap=True, cumsum="native"),
        *_flat(*Q, BIAS, None, None, None, None, "bool[2, 6]"),
        *_flat(*NO_LOCAL, *Q, None, "i32[2, 7]", "bool[2, 7]"),
    ]


def _with_heads() -> list[Sample]:
    """Heads, as in MC-TFM++."""
    return [
        *(_heads(7, "q", "q", "f32[3, 3]", causal=c, chunk=3, cumsum="matmul", **SOFTMAX) for c in (True, False)),
        *(
            _heads(7, *BOTH_PARTS, causal=c, chunk=n, cumsum=kind, lin_norm=norm, **SOFTMAX)
            for c in (True, False)
            for n, kind, norm in ((3, "scan", "none"), (7, "matmul", "chunk"), (2, "native", "chunk_mean"))
        ),
        *(
            _heads(7, *BOTH_PARTS, None, None, "bool[2, 7]", causal=c, chunk=3, cumsum=kind, **SOFTMAX)
            for c in (True, False)
            for kind in ("scan", "native")
        ),
    ]


def _token_by_token() -> list[Sample]:
    """Without chunks: linear attention and Performer, in tiles."""
    return [
        *(
            _heads(t, *NO_LOCAL, "q", "q", cumsum=kind, tile=n, **GLOBAL_ALONE)
            for t, n in ((7, 3), (6, 3), (4, 1), (2, 5))
            for kind in ("scan", "matmul", "native")
        ),
        _heads(0, *NO_LOCAL, "q", "q", cumsum="matmul", tile=3, **GLOBAL_ALONE),
        _heads(0, *NO_LOCAL, "q", "q", cumsum="native", tile=3, **GLOBAL_ALONE),
        _heads(7, *NO_LOCAL, "q", "q", causal=False, cumsum="native", tile=3, **GLOBAL_ALONE),
        _heads(7, *NO_LOCAL, "q", "q", None, None, "bool[2, 7]", cumsum="native", tile=3, **GLOBAL_ALONE),
        _heads(7, *NO_LOCAL, "q", "q", None, None, "bool[2, 6]", causal=False, cumsum="native", tile=3, **GLOBAL_ALONE),
        _heads(0, *NO_LOCAL, "q", "q", None, None, "bool[2, 0]", cumsum="scan", tile=3, **GLOBAL_ALONE),
        sample("f32[2, 7, 6]", *NO_LOCAL, *Q, causal=True, cumsum="scan", tile=3, **GLOBAL_ALONE),
    ]


def _decaying() -> list[Sample]:
    """A decay, constant or per token."""
    return [
        *(
            _heads(t, *NO_LOCAL, "q", "q", decay, *masks, cumsum=kind, tile=3, **GLOBAL_ALONE)
            for kind in ("scan", "matmul")
            for t, masks in ((7, ()), (6, ()), (0, ()), (7, (None, "bool[2, 7]")))
            for decay in ("f32[3]", f"f32[2, 3, {t}]")
        ),
        *(
            _heads(7, *BOTH_PARTS, decay, chunk=3, cumsum=kind, lin_norm="chunk_mean", **SOFTMAX)
            for kind in ("scan", "matmul")
            for decay in ("f32[3]", "f32[2, 3, 7]")
        ),
        *(
            sample("f32[2, 7, 6]", *Q, BIAS, *Q, decay, *masks, chunk=3, causal=True, cumsum=kind)
            for kind in ("scan", "matmul")
            for decay in ("f32[]", "f32[2, 7]")
            for masks in ((), ("i32[2, 7]",), (None, "bool[2, 7]"))
        ),
    ]
