"""What a tuner says while it works. `flashir.cli.progress` shows it; `Silent` does not."""

from __future__ import annotations

from typing import Protocol

from flashir.planning.candidates import Candidate
from flashir.transforms.settle_choices import said


class Progress(Protocol):
    """Is told what happens, in this order for each candidate: measuring (many times), then measured or skipped."""

    def started(self, total: int) -> None:
        """Work begins; about `total` candidates will be measured, perhaps fewer."""
        ...

    def measuring(self, candidate: Candidate, round: int) -> None:
        """A candidate is about to be compiled and checked (round 0), or timed for the `round`th time."""
        ...

    def measured(self, candidate: Candidate, spread_ms: float) -> None:
        """A candidate has its time, `measured_ms`; the middle half of its runs lies within `spread_ms`."""
        ...

    def skipped(self, candidate: Candidate, reason: str) -> None:
        """A candidate cannot be measured: it does not compile, has no memory, fails, or computes something else."""
        ...

    def finished(self) -> None:
        """Work ends, whether well, by an error or by Ctrl-C."""
        ...


class Silent:
    """Says nothing."""

    def started(self, total: int) -> None:
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
    """A candidate for people: `chunk 256, native`."""
    return ", ".join(said(name, value) for name, value in candidate.settings.items()) or "the model"
