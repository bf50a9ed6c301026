"""A matched layer -> the attributes and the parameters of a `flash` or `gau` block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from flashir.backends.protocols import Array
from flashir.errors import ArtefactError, gathered
from flashir.ops.functions.position import ref_rope
from flashir_onnx.raising.attention import Attention, read_attention
from flashir_onnx.raising.templates import Match
from flashir_onnx.raising.unit import Linear, Norm, Reading, close, columns_of, find_linear, find_norm, unrecognised

MOST_HEADS = 16
"""Constants with more rows are no scales of heads but tables, such as those of rope."""


@dataclass(frozen=True)
class Layer:
    """A recognised layer.

    Args:
        op: `flash` or `gau`.
        attrs, params: its attributes, and its parameters by local name.
        result: the name of the value that it computes.
        notes: notes for the user.
    """

    op: str
    attrs: Mapping[str, Any]
    params: Mapping[str, Array]
    result: str
    notes: tuple[str, ...] = ()


def read_layer(reading: Reading, match: Match, x: str) -> Layer:
    """The block whose input is the value `x`. Raises ArtefactError that lists the unknown parts."""
    roles = match.roles
    reading.seen.load(name for role in roles.values() for name in (role, *reading.flow.values.predecessors(role)))
    hidden, keys, out = (find_linear(reading, name) for name in (roles["hidden"], match.keys, roles["out"]))
    problems: list[str] = []
    norm = Norm({}, {})
    with gathered(problems):
        normed = reading.flow.varying(roles["hidden"])
        norm = find_norm(reading, x, normed, shift=True)
        if not np.array_equal(reading.seen[reading.flow.varying(match.keys)], reading.seen[normed]):
            raise unrecognised(f"the multiplication {match.keys!r}", f"its input is not that of {roles['hidden']!r}")
    with gathered(problems):
        attention = read_attention(reading, match)
        gate, v, base = _columns(reading, match, (hidden, keys), attention)
        heads, rope = _heads(reading, match, _silu(reading.seen[keys.name])[..., base], attention)
    if problems:
        raise ArtefactError(problems)
    residual, result = _residual(reading, x, out)
    parts = ((hidden, gate), (hidden, v), (keys, base))
    width, expanded = len(hidden.weight), attention.v.shape[-1]
    attrs = {
        **({"expansion": expanded // width} if expanded % width == 0 else {"expanded": expanded}),
        "key_dim": heads[0].shape[-1],
        **norm.attrs,
        "token_shift": norm.shifted,
        **rope,
        **attention.attrs,
        **({} if residual else {"residual": False}),
    }
    params = {
        **{f"norm.{name}": array for name, array in norm.params.items()},
        "proj_in.weight": np.concatenate([linear.weight[:, columns] for linear, columns in parts], 1),
        "proj_in.bias": np.concatenate([linear.bias[columns] for linear, columns in parts]),
        "offset_scale.gamma": heads[0],
        "offset_scale.beta": heads[1],
        f"rel_bias.{'buckets' if attrs['rel_bias'] == 't5' else 'w'}": attention.bias,
        "proj_out.weight": out.weight,
        "proj_out.bias": out.bias,
    }
    return Layer(match.op, attrs, params, result, attention.notes)


def _residual(reading: Reading, x: str, out: Linear) -> tuple[bool, str]:
    """Whether the input is added to the output projection, and the name of the result."""
    for name in reading.flow.values.successors(out.name):
        if reading.flow.nodes[name].op_type == "Add" and x in reading.flow.nodes[name].input:
            return True, name
    return False, out.name


def _columns(
    reading: Reading, match: Match, linears: tuple[Linear, Linear], attention: Attention
) -> tuple[slice, slice, slice]:
    """The columns of the gate, of v, and of the source of queries and keys. Raises ArtefactError."""
    hidden, keys = linears
    wide = _silu(reading.seen[hidden.name])
    e, s = attention.v.shape[-1], attention.heads["quad_q"].shape[-1]
    v = columns_of(wide, attention.v, e, (0, e, s, s + e))
    if v is None:
        raise unrecognised(f"the product {match.roles['local']!r}", f"its values are not silu of {hidden.name!r}")
    joined = reading.seen[reading.flow.varying(match.roles["out"])]
    gate = columns_of(wide, joined, e, (0, e, s, s + e), factor=attention.attended)
    if gate is None:
        wanted = f"its input is not silu of {hidden.name!r} times attention"
        raise unrecognised(f"the multiplication {match.roles['out']!r}", wanted)
    if keys.name != hidden.name:
        return gate, v, slice(0, s)
    free = (slice(at, at + s) for at in (0, e, 2 * e))
    base = next((b for b in free if all(b.stop <= p.start or b.start >= p.stop for p in (v, gate))), None)
    if base is None:
        raise unrecognised(f"the projection {hidden.name!r}", "its columns are not those of gate, v and keys")
    return gate, v, base


def _silu(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1 + np.tanh(x / 2)))


def _heads(
    reading: Reading, match: Match, base: Array, attention: Attention
) -> tuple[tuple[Array, Array], dict[str, Any]]:
    """gamma and beta, [h, s] each in the order of the heads of the op, and the attributes of rope."""
    heads = list(attention.heads.values())
    s, ends = base.shape[-1], [match.roles[role] for role in ("scores", "far") if role in match.roles]
    constants = [array for end in ends for array in reading.constants(match.keys, end)]
    vectors = [array.reshape(-1, s) for array in constants if array.shape[-1:] == (s,) and array.size <= MOST_HEADS * s]
    rows = list({row.tobytes(): row for array in vectors for row in array}.values())
    factors = {1.0, *(float(array.reshape(())) for array in constants if array.size == 1)}
    fits = [fit for head in heads if (fit := _fit(base, head, rows, sorted(factors, reverse=True))) is not None]
    if len(fits) == len(heads):
        rope = _rope([(gamma * base + beta, head) for (gamma, beta), head in zip(fits, heads)])
        if rope is not None:
            gammas, betas = zip(*fits)
            return (np.stack(gammas), np.stack(betas)), rope
    wanted = f"its operands are not silu of {match.keys!r} scaled, shifted and turned"
    raise unrecognised(f"the product {ends[0]!r}", wanted)


def _fit(base: Array, head: Array, rows: list[Array], factors: Sequence[float]) -> tuple[Array, Array] | None:
    """gamma and beta of a head, times a factor. At position 0, rope turns nothing."""
    s = head.shape[-1]
    for factor, gamma, beta in product(factors, [*rows, np.ones(s)], [*rows, np.zeros(s)]):
        if close((base[:, :1] * gamma + beta) * factor, head[:, :1]):
            return gamma * factor, beta * factor
    return None


def _rope(pairs: list[tuple[Array, Array]]) -> dict[str, Any] | None:
    """The attributes of the rope that turns the first of each pair into the second."""
    s = pairs[0][0].shape[-1]
    for dims, interleaved in product(range(0, s + 1, 2), (True, False)):
        if all(close(ref_rope(base, 1, dims, interleaved) if dims else base, head) for base, head in pairs):
            return {"rope_dims": dims, "rope_interleaved": interleaved and dims > 0}
    return None
