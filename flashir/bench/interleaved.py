"""Timing on a noisy machine: interleaved rounds, medians, and ratios per round."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Samples:
    """The milliseconds of one contestant per round."""

    ms: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of all rounds."""
        return median(self.ms)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and upper quartile of all rounds."""
        if len(self.ms) < 2:
            return self.ms[0], self.ms[0]
        lower, _, upper = quantiles(self.ms, n=4, method="inclusive")
        return lower, upper

    def ratio(self, other: Samples) -> float:
        """The time relative to another: the median of the ratios per round."""
        return median(a / b for a, b in zip(self.ms, other.ms, strict=True))


def interleaved(
    contestants: Mapping[Name, Callable[[], object]],
    rounds: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[Name, Samples]:
    """Time every contestant once per round, after a warm-up round.

    Args:
        contestants: functions to time.
        rounds: the number of rounds.
        progress: called with the rounds done and their total.
    """
    times: dict[Name, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()
    for number in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
        progress(number + 1, rounds)
    return {name: Samples(tuple(ms)) for name, ms in times.items()}
