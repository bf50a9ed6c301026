"""Sampling: pick the next token from logits. Any host can reproduce it exactly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from numbers import Integral

import numpy as np
import numpy.typing as npt

from flashir.arguments import check_fields, shown
from flashir.errors import InputError, SettingError
from flashir.reference.arrays import Array

SEEDS = 2**64
PART = 4096


def not_whole(name: str, value: object, *, least: int = 0) -> list[str]:
    """Problems of a number that must be an integer and at least `least`; empty if it is valid."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        return [f"{name} must be a whole number, got {value!r}"]
    return [] if int(value) >= least else [f"{name} must be at least {least}, got {value}"]


def bad_ends(ends: Iterable[object]) -> list[str]:
    """Problems of the ids of tokens that end a text; empty if all are valid."""
    return [problem for end in ends for problem in not_whole("an end", end)]


class SplitMix64:
    """The random number generator SplitMix64 (Steele, Lea and Flood 2014), a few lines in any language.

    All arithmetic is modulo 2^64, starting from `state = seed`:

        state += 0x9E3779B97F4A7C15
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB
        z ^= z >> 31

    Raises:
        SettingError: the seed is not in 0 .. 2^64 - 1.
    """

    def __init__(self, seed: int) -> None:
        if not_whole("seed", seed) or seed >= SEEDS:
            raise SettingError(f"seed must lie in 0 .. 2^64 - 1, got {seed}")
        self._state = seed

    def whole(self) -> int:
        """The next z in 0 .. 2^64 - 1."""
        self._state = (self._state + 0x9E3779B97F4A7C15) % SEEDS
        z = self._state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % SEEDS
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % SEEDS
        return z ^ (z >> 31)

    def uniform(self) -> float:
        """The next number in [0, 1): (z >> 11) * 2^-53."""
        return (self.whole() >> 11) * 2.0**-53


@dataclass(frozen=True)
class Sampling:
    """How to pick the next token, row by row:

    1. Sort tokens by (-logit, id), and keep the first `top_k`. At temperature 0, pick the first.
    2. The weight of a token is exp((logit - largest logit) / temperature) in float64. `reached` is the running sum of
       weights; the rounding of its last bit is unspecified.
    3. Keep tokens up to the first where `reached` is at least `top_p` times its last value.
    4. Draw u for the row, and pick the first token where `reached` is more than u times its last value.

    Args:
        temperature: divides the logits; 0 picks the largest logit without drawing a number.
        top_k: keep only this many of the largest logits; None for all.
        top_p: keep only the likeliest tokens with this total probability.

    Raises:
        SettingError: lists every argument that is out of range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        problems = []
        if not (self.temperature >= 0 and isfinite(self.temperature)):
            problems.append(f"temperature must be at least 0, and finite, got {self.temperature}")
        if self.top_k is not None:
            problems += not_whole("top_k", self.top_k, least=1)
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p must lie above 0, and at most be 1, got {self.top_p}")
        if problems:
            raise SettingError(problems)

    def pick(self, logits: Array, random: SplitMix64) -> npt.NDArray[np.int64]:
        """Logits [b, v] -> the token of each row, [b]. Draws one number per row, in the order of rows.

        Raises:
            InputError: the array is not logits, or the largest of a row is not finite.
        """
        is_array = isinstance(logits, np.ndarray)
        if not (is_array and logits.dtype.kind in "fiu" and logits.ndim == 2 and logits.shape[1]):
            got = f"{logits.dtype} {logits.shape}" if is_array else shown(logits)
            raise InputError(f"logits must be an array of numbers [rows, vocabulary], got {got}")
        if not isinstance(random, SplitMix64):
            raise InputError(f"random must be a SplitMix64, got {shown(random)}")
        not_finite = np.flatnonzero(~np.isfinite(logits.max(axis=-1)))
        if not_finite.size:
            raise InputError(
                f"the logits of row {not_finite[0]} are not finite, so there is no next token",
                hint="compute in float32, and check that the parameters are finite",
            )
        if not self.temperature:
            return np.asarray(logits.argmax(axis=-1), np.int64)
        return np.array([self._drawn(row, random.uniform()) for row in logits], np.int64)

    def _drawn(self, logits: Array, u: float) -> int:
        """Sample one token from logits [v]. Sorting only the largest is usually enough, and much faster."""
        largest = logits.max()
        if self.top_k is None and len(logits) > PART:
            order = _largest(logits, PART)
            reached = self._weights(logits[order], largest).cumsum()
            place = self._place(reached, self._weights(logits, largest).sum(), u)
            if place is not None:
                return int(order[place])
        order = _largest(logits, self.top_k)
        reached = self._weights(logits[order], largest).cumsum()
        place = self._place(reached, reached[-1], u)
        assert place is not None  # u is at most 1 - 2^-53, so u * total rounds to less than total
        return int(order[place])

    def _weights(self, logits: Array, largest: float) -> Array:
        scores = logits.astype(np.float64) - float(largest)
        with np.errstate(over="ignore"):  # an infinitely smaller logit has weight 0
            return np.asarray(np.exp(scores / self.temperature))

    def _place(self, reached: Array, total: float, u: float) -> int | None:
        """The position of the picked token in the order; None if it lies beyond the sorted part."""
        if self.top_p < 1:
            last = np.searchsorted(reached, self.top_p * total)
            if last == len(reached):
                return None
            total = reached[last]
        place = int(np.searchsorted(reached, u * total, side="right"))
        return place if place < len(reached) else None


def _largest(logits: Array, count: int | None) -> Array:
    """The ids of the largest logits [v] in descending order; of equal ones the smaller id first."""
    if count is None or count >= len(logits):
        return np.argsort(-logits, kind="stable")
    least = np.partition(logits, -count)[-count]
    ids = np.flatnonzero(logits >= least)  # more than `count` if several equal the least
    return ids[np.argsort(-logits[ids], kind="stable")][:count]
