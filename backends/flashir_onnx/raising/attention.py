"""The products of a matched layer: queries, keys, values, the function of the scores, the sums of states.

Axes: b batch, g chunks, n positions in a chunk, t all positions, s keys, e expanded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from flashir.backends.protocols import Array
from flashir.ir.op import opdef
from flashir.ops.attention.quadratic import KERNELS
from flashir.ops.layers.relative_bias import BUCKETS, FARTHEST_BUCKET, SHORT_SPAN, ref_bucket_bias
from flashir_onnx.raising.templates import Match
from flashir_onnx.raising.unit import Product, Reading, arranged, close, find_product, unrecognised

MOST_ROWS = 64
"""So many queries of a chunk are compared."""


@dataclass(frozen=True)
class Attention:
    """The values of the products, and their attributes.

    Args:
        heads: [b, t, s] by name, in the order of the op.
        v, attended: the values, and the sum of all parts, [b, t, e].
        attrs: the attributes of the op.
        bias: the parameter of the relative bias.
        notes: notes for the user.
    """

    heads: Mapping[str, Array]
    v: Array
    attended: Array
    attrs: Mapping[str, Any]
    bias: Array
    notes: tuple[str, ...] = ()


def read_attention(reading: Reading, match: Match) -> Attention:
    """The attention of a layer. Raises ArtefactError for any other function."""
    scores, local = (find_product(reading, match.roles[role]) for role in ("scores", "local"))
    row, column = scores.result.labels[-2], scores.result.labels[-1]
    query = next((side for side in scores.operands if row in side.labels), scores.operands[0])
    q = arranged(reading, query, row, scores.summed)
    k = arranged(reading, scores.other(query), column, scores.summed)
    weights = local.computed_from(reading, scores.result.name)
    values = local.other(weights)
    v = arranged(reading, values, local.summed, local.own(values))
    attended = arranged(reading, local.result, local.own(weights), local.own(values))
    raw = reading.seen[scores.result.name]
    wanted = arranged(reading, weights, local.own(weights), local.summed)
    if raw.ndim != (4 if match.op == "flash" else 3) or wanted.shape != raw.shape:
        raise unrecognised(f"the product {scores.result.name!r}", f"its shape {raw.shape} is not that of scores")
    attrs, table = _scores(reading, match, raw, wanted, weights.name, q.shape[-1])
    kind, bias = _bias(table, attrs["causal"], match)
    attrs["rel_bias"] = kind
    heads = {"quad_q": q, "quad_k": k}
    if match.op == "flash":
        attrs["chunk"] = raw.shape[-1]
        more, far, sums = _global(reading, match, v, attrs["causal"])
        heads, attended, attrs = heads | more, attended + far, attrs | sums
    flat = {name: _flat(head, reading) for name, head in heads.items()}
    notes = _absent(len(table), attrs["causal"]) if match.op == "gau" and bias.any() else ()
    if match.op == "flash" and v.shape[1] == 1:
        notes = (f"at length {reading.length} the file has one chunk: how it would sum up several is assumed",)
    return Attention(flat, _flat(v, reading), _flat(attended, reading), attrs, bias, notes)


def _flat(array: Array, reading: Reading) -> Array:
    """[b, g, n, *] or [b, t, *] -> [b, t, *] without padding"""
    whole = array.reshape(len(array), -1, array.shape[-1]) if array.ndim == 4 else array
    return whole[:, : reading.length]


def _scores(
    reading: Reading, match: Match, raw: Array, wanted: Array, name: str, s: int
) -> tuple[dict[str, Any], Array]:
    """The attributes of the function of the scores, and the bias [n, n]. Raises ArtefactError."""
    n, t = raw.shape[-1], reading.length
    raw, wanted = (scores[0].reshape(-1, n, n)[: -(-t // n)] for scores in (raw, wanted))
    rows = np.unique(np.linspace(0, n - 1, min(n, MOST_ROWS)).astype(int))
    valid = np.arange(n) < (t - n * np.arange(len(raw)))[:, None]
    constants = reading.constants(match.roles["scores"], name)
    tables = [array.reshape(n, n) for array in constants if array.shape[-2:] == (n, n) and array.size == n * n]
    for table, (causal, how, kernel) in product([*tables, np.zeros((n, n))], _functions(match.op, n, t, s)):
        attrs, factor, bias_factor = how
        seen = valid[:, None, :] & (np.tri(n, dtype=bool) if causal else np.ones((n, n), bool))
        shown = np.where(seen, raw * factor + table * bias_factor, -np.inf)[:, rows]
        with np.errstate(all="ignore"):
            got = np.where(seen[:, rows], opdef(kernel).ref(shown, **_axis(kernel)), 0)
        if close(got[valid[:, rows]], wanted[:, rows][valid[:, rows]]):
            return {"causal": causal, "attention": kernel, **attrs}, table
    raise unrecognised(f"the function of the scores between {match.roles['scores']!r} and {name!r}")


def _functions(op: str, n: int, t: int, s: int) -> Iterator[tuple[bool, tuple[dict[str, Any], float, float], str]]:
    """Causal or not, the attributes with the factors of scores and bias, and the kernel."""
    length = n if op == "flash" else t
    scales = [({"qk_scale": "length"}, 1 / length, 1.0), ({"qk_scale": "none"}, 1.0, 1.0)]
    scales.append(({"qk_scale": "sqrt_key"}, s**-0.5, 1.0))
    if op == "gau":
        scales.append(({"qk_scale": "length", "bias_scale": "length"}, 1 / length, 1 / length))
        scales.append(({"qk_scale": "root_length"}, length**-0.5, 1.0))
    for kernel, how, causal in product(KERNELS, scales, (True, False)):
        yield causal, how, kernel


def _axis(kernel: str) -> dict[str, Any]:
    return {name: -1 for name in opdef(kernel).attrs if name == "axis"}


def _bias(table: Array, causal: bool, match: Match) -> tuple[str, Array]:
    """The kind of a bias [n, n], and its parameter. Raises ArtefactError for any other table."""
    n = len(table)
    seen = np.tri(n, dtype=bool) if causal else np.ones((n, n), bool)
    distance = np.arange(n) - np.arange(n)[:, None] + n - 1
    forms = [("t5", ref_bucket_bias(np.arange(BUCKETS), n, causal), BUCKETS)]
    if match.op == "flash" and n < SHORT_SPAN:
        forms.append(("paper", distance, 2 * n - 1))
    for kind, index, count in forms:
        weights = np.zeros(count)
        weights[index[seen]] = table[seen]
        if np.array_equal(weights[index][seen], table[seen]):
            return kind, weights
    raise unrecognised(f"the bias of the scores {match.roles['scores']!r}", "it depends on more than the distance")


def _absent(n: int, causal: bool) -> tuple[str, ...]:
    """A note if a file of a fixed length has no weight for longer distances."""
    here, anywhere = (
        len(np.unique(ref_bucket_bias(np.arange(BUCKETS), length, causal))) for length in (n, n + FARTHEST_BUCKET)
    )
    note = f"{anywhere - here} buckets of the relative bias, of distances from {n} on, are not in the file: they are 0"
    return (note,) if here < anywhere else ()


def _global(reading: Reading, match: Match, v: Array, causal: bool) -> tuple[dict[str, Array], Array, dict[str, Any]]:
    """The heads of the global part, its result, and its attributes. Raises ArtefactError."""
    states, far = (find_product(reading, match.roles[role]) for role in ("state", "far"))
    position = states.summed[-1:]  # after the axis of chunks, if that is summed too
    key = _key(reading, states, position, v)
    k = arranged(reading, key, position, states.own(key))
    state = arranged(reading, states.result, states.own(key), states.own(states.other(key)))
    carried = far.computed_from(reading, states.result.name)
    query = far.other(carried)
    q = arranged(reading, query, far.own(query), far.summed)
    used = arranged(reading, carried, far.summed, far.own(carried))
    result = arranged(reading, far.result, far.own(query), far.own(carried))
    n, chunks = k.shape[-2], v.shape[1]
    for way in (causal,) if n > 1 else (True, False):  # the scores of single tokens do not tell
        for attrs, got in _sums(state, way, n, chunks, reading.length):
            if close(got, used):
                return {"lin_q": q, "lin_k": k}, result, attrs | {"causal": way}
    raise unrecognised(f"the sum of states between {states.result.name!r} and {carried.name!r}")


def _key(reading: Reading, states: Product, position: str, v: Array) -> Any:
    """The operand that holds keys; the other holds v. Raises ArtefactError."""
    for key in states.operands:
        value = states.other(key)
        if states.own(key) and states.own(value) and close(arranged(reading, value, position, states.own(value)), v):
            return key
    raise unrecognised(f"the product {states.result.name!r}", "it has no operand v")


def _sums(state: Array, causal: bool, n: int, chunks: int, t: int) -> Iterator[tuple[dict[str, Any], Array]]:
    """The sums of states [b, g, s, e], or of their sum [b, s, e], that the op has, with their attributes."""
    scales = {"length": 1 / t, "chunk": 1 / n, "none": 1.0, "chunk_mean": 1 / (n * chunks)}
    if causal and state.ndim == 4:
        before = np.cumsum(state, 1) - state
        visible = np.maximum(np.arange(chunks), 1)[:, None, None]
        yield {"lin_norm": "chunk"}, before / n
        yield {"lin_norm": "none"}, before
        yield {"lin_norm": "chunk_mean"}, before / n / visible
    if causal:
        return
    for name, scale in scales.items():
        if state.ndim == 3:
            yield {"lin_norm": name}, state * scale
        else:
            yield {"lin_norm": name, "reduce_groups": False}, state * scale
            yield {"lin_norm": name}, state.sum(1) * scale
            yield {"lin_norm": name}, state.sum(1, keepdims=True) * scale
