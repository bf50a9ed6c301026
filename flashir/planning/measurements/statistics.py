"""From samples to times that compare: what the machine was up to in a round is taken out of all that it timed then.

A machine that others use is twice as slow in one minute as in the next. Candidates are timed in turn, so a round hits
all alike; but not all are there in every round. So a sample is taken as the time of its candidate times the slowness
of its round, and both are fitted by Tukey's median polish, on logarithms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt
from statistics import median, quantiles

SWEEPS = 30  # of the polish; each at least halves what is left to settle
Rounds = Mapping[int, float]
"""Milliseconds by the number of the round."""


@dataclass(frozen=True)
class Timing:
    """What was measured of one candidate.

    Args:
        ms: the median, in milliseconds, as in a round that is like most.
        spread_ms: the range of the middle half of the runs, in milliseconds.
        runs: how many there were.
    """

    ms: float
    spread_ms: float
    runs: int

    @property
    def error_ms(self) -> float:
        """The standard error of the median, were the runs normal; one run alone says nothing of it."""
        return 0.93 * self.spread_ms / sqrt(self.runs) if self.runs > 1 else inf

    @property
    def doubt(self) -> float:
        """By what share the median may be off: twice its standard error."""
        return 2 * self.error_ms / self.ms


def timings(samples: Mapping[int, Rounds]) -> dict[int, Timing]:
    """The timing of each candidate, from its samples.

    The spread of one is not less than that of all: the fit can go right through the samples of some.
    """
    logs = {i: {r: log(max(ms, 1e-6)) for r, ms in rounds.items()} for i, rounds in samples.items() if rounds}
    slowness = _polish(logs)
    steady = {i: [exp(x - slowness.get(r, 0.0)) for r, x in rounds.items()] for i, rounds in logs.items()}
    medians = {i: median(each) for i, each in steady.items()}
    common = _middle([ms / medians[i] for i, each in steady.items() for ms in each])
    return {i: Timing(medians[i], max(_middle(each), common * medians[i]), len(each)) for i, each in steady.items()}


def _polish(logs: Mapping[int, Rounds]) -> dict[int, float]:
    """How slow each round was, where several candidates were in it: one alone says nothing of the machine."""
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
    """The range of the middle half."""
    if len(values) < 2:
        return 0.0
    low, _, high = quantiles(values, n=4, method="inclusive")
    return high - low
