"""Sampling: how the next token is picked from logits. Any host can do it again, to the same tokens."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.arguments import check_fields, shown
from flashir.errors import InputError, SettingError

Array = npt.NDArray[Any]
SEEDS = 2**64
PART = 4096


def not_whole(name: str, value: object, *, least: int = 0) -> list[str]:
    """What is wrong with a number that must be a whole one, and not too small; nothing where it is right."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        return [f"{name} must be a whole number, got {value!r}"]
    return [] if int(value) >= least else [f"{name} must be at least {least}, got {value}"]


class SplitMix64:
    """Numbers drawn at random: SplitMix64 (Steele, Lea and Flood 2014), a few lines in any language.

    All of it modulo 2^64, from `state = seed` on:

        state += 0x9E3779B97F4A7C15
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB
        z ^= z >> 31

    Raises:
        SettingError: the seed is not of 0 .. 2^64 - 1.
    """

    def __init__(self, seed: int) -> None:
        if not_whole("seed", seed) or seed >= SEEDS:
            raise SettingError(f"seed must lie in 0 .. 2^64 - 1, got {seed}")
        self._state = seed

    def whole(self) -> int:
        """The next z, of 0 .. 2^64 - 1."""
        self._state = (self._state + 0x9E3779B97F4A7C15) % SEEDS
        z = self._state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % SEEDS
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % SEEDS
        return z ^ (z >> 31)

    def uniform(self) -> float:
        """The next number of [0, 1): (z >> 11) * 2^-53."""
        return (self.whole() >> 11) * 2.0**-53


@dataclass(frozen=True)
class Sampling:
    """How the next token is picked, row by row:

    1. Tokens are put in order by (-logit, id), and the first `top_k` are kept. At temperature 0 the first is picked.
    2. Each weighs exp((logit - largest logit) / temperature), in float64. `reached` are the sums of weights in order;
       how their last bit is rounded is left open.
    3. Of these the first are kept, up to the one where `reached` is at least `top_p` of its last.
    4. With u drawn for the row, the first token is picked where `reached` is more than u times its last.

    Args:
        temperature: logits are divided by it; 0 takes the largest, and draws nothing.
        top_k: only so many of the largest logits count; None for all.
        top_p: only the likeliest tokens count, until they make up this share.

    Raises:
        SettingError: with every one that is out of range.
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
        """Logits [b, v] -> the token of each row, [b]; one number is drawn a row, in the order of rows.

        Raises:
            InputError: these are no logits, or the largest of a row is no finite number.
        """
        is_array = isinstance(logits, np.ndarray)
        if not (is_array and logits.dtype.kind in "fiu" and logits.ndim == 2 and logits.shape[1]):
            told = f"{logits.dtype} {logits.shape}" if is_array else shown(logits)
            raise InputError(f"logits must be an array of numbers [rows, vocabulary], got {told}")
        if not isinstance(random, SplitMix64):
            raise InputError(f"random must be a SplitMix64, got {shown(random)}")
        strange = np.flatnonzero(~np.isfinite(logits.max(axis=-1)))
        if strange.size:
            raise InputError(
                f"the logits of row {strange[0]} are not finite, so there is no next token",
                hint="compute in float32, and see whether the parameters are finite",
            )
        if not self.temperature:
            return np.asarray(logits.argmax(axis=-1), np.int64)
        return np.array([self._drawn(row, random.uniform()) for row in logits], np.int64)

    def _drawn(self, logits: Array, u: float) -> int:
        """One token of logits [v]. To put a part in order is enough most of the time, and takes less by far."""
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
        assert place is not None  # u is at most 1 - 2^-53, so what it is a share of is rounded to less than the whole
        return int(order[place])

    def _weights(self, logits: Array, largest: float) -> Array:
        scores = logits.astype(np.float64) - float(largest)
        with np.errstate(over="ignore"):  # what is infinitely less likely weighs nothing
            return np.asarray(np.exp(scores / self.temperature))

    def _place(self, reached: Array, total: float, u: float) -> int | None:
        """Where in the order the token is that is picked; None where the order ends before it."""
        if self.top_p < 1:
            last = np.searchsorted(reached, self.top_p * total)
            if last == len(reached):
                return None
            total = reached[last]
        place = int(np.searchsorted(reached, u * total, side="right"))
        return place if place < len(reached) else None


def _largest(logits: Array, count: int | None) -> Array:
    """The ids of the largest logits [v], the largest first, and of equal ones the smaller id."""
    if count is None or count >= len(logits):
        return np.argsort(-logits, kind="stable")
    least = np.partition(logits, -count)[-count]
    ids = np.flatnonzero(logits >= least)  # more than `count` where several are equal to the least
    return ids[np.argsort(-logits[ids], kind="stable")][:count]
