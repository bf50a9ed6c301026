"""Candidates: ways to settle a model, what each takes, and which of them a policy prefers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flashir.errors import SettingError
from flashir.ir.graph import Attr
from flashir.ops import OPS
from flashir.transforms.settle_choices import Settings, SettingsViews, attribute_of

POLICIES = ("quality", "fastest")
QUALITY_SLACK = 1.05
"""A candidate that the policy `quality` prefers may take this much longer than the fastest."""


@dataclass(frozen=True)
class Candidate(SettingsViews):
    """One way to settle a model, and what it takes.

    Args:
        settings: the value of each choice; empty where the model has none.
        predicted_ms: milliseconds by the cost model.
        peak_bytes: bytes of memory on one device, by the cost model.
        measured_ms: milliseconds as measured, where they were.
        spread_ms, runs: of that measurement: the range of the middle half of the runs, and how many there were.
        correction: what the prediction is multiplied by where it competes with measurements of others.
        near: tokens a row of its own measurement that the correction comes from, where that was at another length.
        terms: the predicted milliseconds of each kind.
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

    @property
    def ms(self) -> float:
        """What is known best: as measured, else as predicted and corrected."""
        return self.predicted_ms * self.correction if self.measured_ms is None else self.measured_ms


def best(candidates: Sequence[Candidate], policy: str) -> Candidate:
    """The candidate that the policy prefers. Raises SettingError for an unknown policy.

    `quality` takes the largest values of the choices that change the function (§4.3 finds larger chunks better), among
    the candidates that take at most 5% longer than the fastest, and of those the fastest.
    """
    check_policy(policy)
    fastest = min(candidates, key=lambda candidate: candidate.ms)
    if policy == "fastest":
        return fastest
    close = [candidate for candidate in candidates if candidate.ms <= QUALITY_SLACK * fastest.ms]
    largest = max(map(quality, close))
    return min((each for each in close if quality(each) == largest), key=lambda candidate: candidate.ms)


def check_policy(policy: str) -> None:
    """Raises SettingError for an unknown policy."""
    if policy not in POLICIES:
        raise SettingError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")


def lengths(candidate: Candidate) -> tuple[Attr, ...]:
    """Its values that are numbers of tokens."""
    return tuple(value for value in candidate.settings.values() if isinstance(value, int))


def strategies(candidate: Candidate) -> tuple[Attr, ...]:
    """Its values that are words."""
    return tuple(value for value in candidate.settings.values() if isinstance(value, str))


def quality(candidate: Candidate) -> tuple[float, ...]:
    """The values of the choices that change the function: the larger, the better the model."""
    changing = {attr for op in OPS.values() for attr, choice in op.choices.items() if choice.changes_function}
    return tuple(
        value if isinstance(value, (int, float)) else 0.0
        for name, value in candidate.settings.items()
        if attribute_of(name) in changing
    )
