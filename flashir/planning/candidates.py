"""Candidates: the settings a model can have, their cost, and which one a policy prefers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import hypot, inf

from flashir.errors import SettingError
from flashir.ir.graph import Attr, Graph
from flashir.ir.settings import Settings, SettingsViews, attribute_of
from flashir.ops import OPS
from flashir.planning.measurements.statistics import Timing

POLICIES = ("quality", "fastest")
QUALITY_SLACK = 1.05
"""The policy `quality` accepts candidates up to this many times as slow as the fastest."""

DOUBT = 3.0
"""A measured difference decides against the predicted candidate from this many standard errors on."""


@dataclass(frozen=True)
class Candidate(SettingsViews):
    """One value for each open choice of a model, and its cost.

    Args:
        settings: the value of each choice; empty if the model has none.
        predicted_ms: predicted milliseconds.
        peak_bytes: predicted peak memory of one device, in bytes.
        measured_ms: measured milliseconds; None if unmeasured.
        spread_ms, runs: the interquartile range of the measured runs, and their number.
        correction: factor on the prediction, learned from other measurements.
        near: tokens per row of the measurement behind the correction, if it was taken at another length.
        terms: predicted milliseconds per cost term.
        lowered: the model with these settings, lowered for the target, until one is chosen.
    """

    settings: Settings
    predicted_ms: float
    peak_bytes: int
    measured_ms: float | None = None
    spread_ms: float | None = None
    runs: int | None = None
    correction: float = 1.0
    near: int | None = None
    terms: Mapping[str, float] = field(default_factory=dict, repr=False, compare=False)
    lowered: Graph | None = field(default=None, repr=False, compare=False)

    @property
    def ms(self) -> float:
        """The measured time, or the corrected prediction if there is none."""
        return self.predicted_ms * self.correction if self.measured_ms is None else self.measured_ms


def best(candidates: Sequence[Candidate], policy: str) -> Candidate:
    """Return the candidate that the policy prefers. Raises SettingError for an unknown policy.

    `quality` considers the candidates within 5% of the fastest. Among them it takes the largest values of the choices
    that change the function (§4.3 finds larger chunks better), and then the fastest.
    """
    check_policy(policy)
    fastest = min(candidates, key=lambda candidate: candidate.ms)
    if policy == "fastest":
        return fastest
    close = [candidate for candidate in candidates if candidate.ms <= QUALITY_SLACK * fastest.ms]
    largest = max(map(quality, close))
    return min((candidate for candidate in close if quality(candidate) == largest), key=lambda candidate: candidate.ms)


def preferred(candidates: Sequence[Candidate], policy: str) -> Candidate:
    """Return the candidate that the policy prefers, or the predicted one if measurements cannot tell them apart.

    The predicted one is what the policy prefers without measurements. It is kept if the policy prefers it when it takes
    less time by `DOUBT` standard errors of the difference. Its timing and those of others are from the same rounds.
    """
    favourite = best(candidates, policy)
    planned = best([replace(candidate, measured_ms=None, correction=1.0) for candidate in candidates], policy).settings
    predicted = next(candidate for candidate in candidates if candidate.settings == planned)
    if predicted is favourite or predicted.measured_ms is None or favourite.measured_ms is None:
        return favourite
    doubt_ms = DOUBT * hypot(_error_ms(predicted), _error_ms(favourite))
    hopeful = replace(predicted, measured_ms=max(predicted.measured_ms - doubt_ms, 0.0))
    others = [candidate for candidate in candidates if candidate is not predicted]
    return predicted if best([hopeful, *others], policy) is hopeful else favourite


def _error_ms(candidate: Candidate) -> float:
    """The standard error of the measured time; infinite if it is unknown."""
    if candidate.measured_ms is None or candidate.spread_ms is None or candidate.runs is None:
        return inf
    return Timing(candidate.measured_ms, candidate.spread_ms, candidate.runs).error_ms


def check_policy(policy: str) -> None:
    """Raise SettingError for an unknown policy."""
    if policy not in POLICIES:
        raise SettingError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")


def lengths(candidate: Candidate) -> tuple[Attr, ...]:
    """The values that are a number of tokens."""
    return tuple(value for value in candidate.settings.values() if isinstance(value, int))


def strategies(candidate: Candidate) -> tuple[Attr, ...]:
    """The values that name a strategy."""
    return tuple(value for value in candidate.settings.values() if isinstance(value, str))


def quality(candidate: Candidate) -> tuple[float, ...]:
    """The values of the choices that change the function. Larger values give a better model."""
    changing = {attr for op in OPS.values() for attr, choice in op.choices.items() if choice.changes_function}
    return tuple(
        value if isinstance(value, (int, float)) else 0.0
        for name, value in candidate.settings.items()
        if attribute_of(name) in changing
    )
