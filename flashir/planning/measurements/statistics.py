"""Comparable times from samples: remove per-round machine slowdown with Tukey's median polish.

A shared machine can be twice as slow in one minute as in the next. Candidates are timed in turn, so a slow round
affects all of them, but not every candidate takes part in every round. So a sample is modelled as the time of its
candidate times the slowness of its round. Both are fitted by median polish on logarithms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt
from statistics import median, quantiles

SWEEPS = 30  # of the median polish; each at least halves the remaining error
Rounds = Mapping[int, float]
"""Milliseconds by round number."""


@dataclass(frozen=True)
class Timing:
    """The measured time of one candidate.

    Args:
        ms: the median in a typical round, in milliseconds.
        spread_ms: the interquartile range of the runs, in milliseconds.
        runs: the number of runs.
    """

    ms: float
    spread_ms: float
    runs: int

    @property
    def error_ms(self) -> float:
        """The standard error of the median if the runs are normally distributed; infinite for a single run."""
        return 0.93 * self.spread_ms / sqrt(self.runs) if self.runs > 1 else inf

    @property
    def doubt(self) -> float:
        """The relative uncertainty of the median: twice its standard error."""
        return 2 * self.error_ms / self.ms


def timings(samples: Mapping[int, Rounds]) -> dict[int, Timing]:
    """The timing of each candidate, from its samples.

    The relative spread of a candidate is at least that of all samples, because the fit can pass exactly through the
    samples of one candidate.
    """
    logs = {i: {r: log(max(ms, 1e-6)) for r, ms in rounds.items()} for i, rounds in samples.items() if rounds}
    slowness = _polish(logs)
    steady = {i: [exp(x - slowness.get(r, 0.0)) for r, x in rounds.items()] for i, rounds in logs.items()}
    medians = {i: median(values) for i, values in steady.items()}
    common = _middle([ms / medians[i] for i, values in steady.items() for ms in values])
    return {
        i: Timing(medians[i], max(_middle(values), common * medians[i]), len(values)) for i, values in steady.items()
    }


def _polish(logs: Mapping[int, Rounds]) -> dict[int, float]:
    """The log slowness of each round with several candidates. A round with one candidate says nothing about it."""
    every = sorted({r for rounds in logs.values() for r in rounds})
    members = {r: [i for i, rounds in logs.items() if r in rounds] for r in every}
    slowness = {r: 0.0 for r in every if len(members[r]) > 1}
    for _ in range(SWEEPS):
        own = {}
        for i, rounds in logs.items():
            shared = [x - slowness[r] for r, x in rounds.items() if r in slowness]
            own[i] = median(shared or rounds.values())
        slowness = {r: median(logs[i][r] - own[i] for i in members[r]) for r in slowness}
    usual = median(slowness.values()) if slowness else 0.0
    return {r: value - usual for r, value in slowness.items()}


def _middle(values: Sequence[float]) -> float:
    """The interquartile range."""
    if len(values) < 2:
        return 0.0
    low, _, high = quantiles(values, n=4, method="inclusive")
    return high - low
