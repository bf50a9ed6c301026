"""What the tests of tuning share: trials, candidates, a measurer that knows the times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import exp
from random import Random
from typing import Any

from flashir.ir.settings import Settings
from flashir.ops.attention.chunk_choices import STRATEGIES
from flashir.planning.candidates import Candidate
from flashir.planning.measurements.store import new_tuning, now
from flashir.planning.measurements.trial import Trial

CHUNKS = (64, 128, 256, 512, 1024)


def chosen(chunk: int | None, cumsum: str | None) -> Settings:
    """A chunk and a strategy."""
    return Settings(chunk=chunk, cumsum=cumsum)


GRID = tuple(chosen(chunk, cumsum) for chunk in CHUNKS for cumsum in STRATEGIES)
TRIAL = Trial(
    model="0" * 64,
    target="onnx:cpu",
    device="a processor x2",
    versions="{}",
    training=False,
    batch=1,
    seq_len=512,
    tuning="0" * 16,
    choices='{"chunk":64,"cumsum":"native"}',
    predicted_ms=1.0,
    measured_ms=2.0,
    spread_ms=0.1,
    runs=3,
    date="2026-01-01T00:00:00.000000+00:00",
)


def trial(**changes: Any) -> Trial:
    """A trial of a tuner of its own, just measured."""
    return replace(TRIAL, **{"tuning": new_tuning(), "date": now(), **changes})


def candidates(predicted: Mapping[Settings, float], peak_bytes: int = 1) -> tuple[Candidate, ...]:
    """Candidates with these predictions, in milliseconds."""
    return tuple(Candidate(each, ms, peak_bytes, terms={"matrix products": ms}) for each, ms in predicted.items())


def choice_of(candidate: Candidate) -> Settings:
    """The settings that a candidate stands for."""
    return candidate.settings


class FakeMeasurer:
    """Knows the times. `broken` cannot be opened, `failing` fail when they run."""

    def __init__(
        self, times: Mapping[Settings, float], broken: tuple[Settings, ...] = (), failing: tuple[Settings, ...] = ()
    ) -> None:
        self.times, self.broken, self.failing = times, broken, failing
        self.opened: list[Settings] = []
        self.open_now: set[Settings] = set()
        self.most_open = 0
        self.order: list[Settings] = []

    def open(self, candidate: Candidate) -> None:
        choice = choice_of(candidate)
        if choice in self.broken:
            raise MemoryError("no memory\nfor this")
        self.opened.append(choice)
        self.open_now.add(choice)
        self.most_open = max(self.most_open, len(self.open_now))

    def sample(self, candidate: Candidate) -> float:
        choice = choice_of(candidate)
        assert choice in self.open_now
        if choice in self.failing:
            raise RuntimeError("out of memory")
        self.order.append(choice)
        return self.times[choice]

    def close(self, candidate: Candidate) -> None:
        self.open_now.discard(choice_of(candidate))


class NoisyMeasurer(FakeMeasurer):
    """Knows the times, on a machine whose clock runs unevenly, and where other work slows down single runs."""

    def __init__(self, times: Mapping[Settings, float], seed: int) -> None:
        super().__init__(times)
        self.random = Random(seed)
        self.slowness = 1.0

    def sample(self, candidate: Candidate) -> float:
        if self.random.random() < 0.1:
            self.slowness = self.random.choice((1.0, 1.3, 2.0))
        return super().sample(candidate) * self.slowness * exp(abs(self.random.gauss(0, 0.1)))


class Log:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def started(self, total: int, seconds: float) -> None:
        self.events.append(("started", total))

    def measuring(self, candidate: Candidate, round: int) -> None:
        self.events.append(("measuring", (choice_of(candidate), round)))

    def measured(self, candidate: Candidate, spread_ms: float) -> None:
        self.events.append(("measured", choice_of(candidate)))

    def skipped(self, candidate: Candidate, reason: str) -> None:
        self.events.append(("skipped", (choice_of(candidate), reason)))

    def finished(self) -> None:
        self.events.append(("finished", None))

    def of(self, kind: str) -> list[Any]:
        """What was said in events of a kind."""
        return [what for name, what in self.events if name == kind]
