"""Progress events of a tuner. `flashir.cli.progress` shows them; `Silent` ignores them."""

from __future__ import annotations

from typing import Protocol

from flashir.ir.settings import setting_text
from flashir.planning.candidates import Candidate


class Progress(Protocol):
    """Receives events. The order for each candidate is: measuring (many times), then measured or skipped."""

    def started(self, total: int, seconds: float) -> None:
        """Tuning starts; at most about `total` candidates will be timed for about `seconds` by the cost model."""
        ...

    def measuring(self, candidate: Candidate, round: int) -> None:
        """A candidate is about to be compiled and checked (round 0), or timed for the `round`th time."""
        ...

    def measured(self, candidate: Candidate, spread_ms: float) -> None:
        """A candidate was measured: `measured_ms`, with the interquartile range `spread_ms`."""
        ...

    def skipped(self, candidate: Candidate, reason: str) -> None:
        """A candidate cannot be measured: it does not compile or fit in memory, fails, or computes wrong results."""
        ...

    def finished(self) -> None:
        """Tuning ends, normally, with an error or by Ctrl-C."""
        ...


class Silent:
    """Ignores all events."""

    def started(self, total: int, seconds: float) -> None:
        """Nothing."""

    def measuring(self, candidate: Candidate, round: int) -> None:
        """Nothing."""

    def measured(self, candidate: Candidate, spread_ms: float) -> None:
        """Nothing."""

    def skipped(self, candidate: Candidate, reason: str) -> None:
        """Nothing."""

    def finished(self) -> None:
        """Nothing."""


def candidate_name(candidate: Candidate) -> str:
    """A candidate as text: `chunk 256, native`."""
    return ", ".join(setting_text(name, value) for name, value in candidate.settings.items()) or "the model"
