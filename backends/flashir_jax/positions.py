"""Sinusoids in float32 that are as exact at position 10^9 as at 1, without float64 or tables.

Only the fraction of a turn of an angle position * rate matters, and float32 loses it at position 10^5. Integer
arithmetic that wraps around is exact: if the turns per position are a 32-bit fraction, position * fraction modulo 2^32
is the fraction of a turn. The part beyond 32 bits is added in float32.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from flashir.ops.functions.position import MAX_PERIOD

TURN = 2.0**32


def positions(length: Any) -> Any:
    """0, 1, .. length - 1."""
    return lax.iota(jnp.uint32, length)


def sinusoid(position: Any, half: int) -> tuple[Any, Any]:
    """sin and cos of position * 10000^(-i / half), float32 [.., half] each, within 4e-7 of the exact ones."""
    turns = TURN * MAX_PERIOD ** (-np.arange(half) / half) / (2 * np.pi)  # turns per position, in units of 2^-32
    whole = np.round(turns)
    rest = (turns - whole).astype(np.float32)
    position = position.astype(jnp.uint32)[..., None]
    wrapped = lax.bitcast_convert_type(position * whole.astype(np.uint32), jnp.int32)  # in -half .. half a turn
    fraction = wrapped.astype(jnp.float32) + position.astype(jnp.float32) * rest
    angle = fraction * np.float32(2 * np.pi / TURN)
    return jnp.sin(angle), jnp.cos(angle)


def wide_sinusoid(position: Any, half: int) -> tuple[Any, Any]:
    """The same in float64, for graphs that compute in it."""
    rates = MAX_PERIOD ** (-np.arange(half) / half)
    angle = position.astype(jnp.float64)[..., None] * rates
    return jnp.sin(angle), jnp.cos(angle)
