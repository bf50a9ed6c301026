"""The chunked recurrence in numpy float64, without padding and without carried states.

Axes: b batch, h heads, t and m positions, g chunks, n within a chunk, s key, e value. The head axis may be absent.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.ir.op import OPS
from flashir.ops.attention.documents import ref_numbers, ref_seen, ref_weights
from flashir.ops.attention.linear_documents import ref_between


def ref_recurrence(
    v: Any,
    quad_q: Any = None,
    quad_k: Any = None,
    bias: Any = None,
    lin_q: Any = None,
    lin_k: Any = None,
    decay: Any = None,
    segment_ids: Any = None,
    documents: Any = None,
    *,
    chunk: int | None,
    causal: bool,
    lin_norm: str = "none",
    overlap: bool = False,
    kernel: str = "relu2",
    chunk_weights: Any = None,
    **_: Any,
) -> Any:
    """`chunked_recurrence` in numpy; `chunk_weights` [b, g, h] are weights of chunk states."""
    length = v.shape[-2]
    numbers = None if documents is None else ref_numbers(documents, length)
    out = np.zeros_like(v)
    if chunk is None:
        return _ref_of_tokens(lin_q, lin_k, v, decay, numbers, causal)
    spans = [slice(start, min(start + chunk, length)) for start in range(0, length, chunk)]
    if quad_q is not None:
        for at in spans:
            earlier = min(chunk, at.start) if overlap else 0
            own = _ref_local(quad_q, quad_k, v, bias, numbers, at, earlier, chunk if overlap else 0, causal, kernel)
            out[..., at, :] += own
    if lin_q is None:
        return out
    settings: dict[str, Any] = {"chunk": chunk, "causal": causal, "lin_norm": lin_norm}
    visible = None if segment_ids is None else _ref_visible(segment_ids, numbers, spans)
    if documents is None and decay is None:
        return out + _ref_far(lin_q, lin_k, v, visible, spans, chunk_weights, **settings)
    present = np.ones(v.shape[:1] + v.shape[-2:-1], bool) if documents is None else documents
    settings |= {"visible": visible, "weights": chunk_weights}
    if v.ndim == 3:
        return out + ref_between(lin_q, lin_k, v, present, fading=ref_fading(decay, v.shape), **settings)
    fading = ref_fading(decay, v.shape)
    for h in range(v.shape[1]):
        own = None if fading is None else fading[:, h]
        out[:, h] += ref_between(lin_q[:, h], lin_k[:, h], v[:, h], present, fading=own, **settings)
    return out


def _ref_local(
    q: Any, k: Any, v: Any, bias: Any, numbers: Any, at: slice, earlier: int, first: int, causal: bool, kernel: str
) -> Any:
    """One chunk, which also attends to `earlier` tokens before it. Its positions in the bias begin at `first`."""
    n = at.stop - at.start
    keys = slice(at.start - earlier, at.stop)
    scores = np.einsum("...ns,...ms->...nm", q[..., at, :], k[..., keys, :])
    if bias is not None:
        scores = scores + bias[first : first + n, first - earlier : first + n]
    seen = np.tri(n, n + earlier, earlier, dtype=bool) if causal else np.ones((n, n + earlier), bool)
    if numbers is not None:
        seen = seen & ref_seen(numbers[:, keys], n, v.ndim)
    seen = np.broadcast_to(seen, scores.shape)
    weights = np.where(seen, scores, 0) if kernel == "identity" else ref_weights(OPS[kernel].ref, scores, seen)
    return np.einsum("...nm,...me->...ne", weights, v[..., keys, :])


def _ref_far(
    q: Any,
    k: Any,
    v: Any,
    visible: Any,
    spans: list[slice],
    weights: Any,
    *,
    chunk: int,
    causal: bool,
    lin_norm: str,
) -> Any:
    """Chunk by chunk: queries times the states of the chunks that they see."""
    batch, out = v.shape[0], np.zeros_like(v)
    states = np.array([np.einsum("b...ns,b...ne->b...se", k[..., at, :], v[..., at, :]) for at in spans])
    for g, at in enumerate(spans):
        seen = np.ones((len(spans), batch)) if visible is None else visible[:, g].T.astype(np.float64)
        if causal:
            seen[g:] = 0
        if lin_norm == "chunk_mean":
            seen /= np.maximum(seen.sum(0), 1)
        if weights is not None:
            seen *= weights[:, g].T
        out[..., at, :] = (
            q[..., at, :] @ np.einsum("gb,gb...->b...", seen, states) / (1 if lin_norm == "none" else chunk)
        )
    return out


def _ref_of_tokens(q: Any, k: Any, v: Any, decay: Any, numbers: Any, causal: bool) -> Any:
    """Token by token: the scores of every query and key that it sees, [.., t, m], times v."""
    scores = np.einsum("...ts,...ms->...tm", q, k)
    if numbers is not None:
        scores = scores * ref_seen(numbers, v.shape[-2], v.ndim)
    if decay is not None:
        scores = scores * ref_fading(decay, v.shape)
    return (np.tril(scores) if causal else scores) @ v


def ref_fading(decay: Any, shape: tuple[int, ...]) -> Any:
    """The factor of token m at t, [.., t, m]: the decays of all tokens from m + 1 to t; 0 if m > t."""
    if decay is None:
        return None
    length = shape[-2]
    per_token = np.broadcast_to(decay[..., None], shape[:-1]) if decay.ndim == len(shape) - 3 else decay
    factors = np.zeros((*shape[:-1], length))
    for t in range(length):
        for m in range(t + 1):
            factors[..., t, m] = np.exp(per_token[..., m + 1 : t + 1].sum(-1))
    return factors


def _ref_visible(segment_ids: Any, numbers: Any, spans: list[slice]) -> Any:
    """Whether the id ranges of the tokens of two chunks overlap (Code 7), [b, g, h].

    A chunk of padding alone has no range, and overlaps with none.
    """
    tokens = np.ones(segment_ids.shape, bool) if numbers is None else numbers > 0
    overlaps = np.zeros((len(tokens), len(spans), len(spans)), bool)
    for row, (ids, real) in enumerate(zip(segment_ids, tokens, strict=True)):
        parts = [ids[at][real[: len(ids)][at]] for at in spans]
        for g, own in enumerate(parts):
            for h, other in enumerate(parts):
                present = own.size and other.size
                overlaps[row, g, h] = present and own.min() <= other.max() and own.max() >= other.min()
    return overlaps
