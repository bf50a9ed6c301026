"""The speed of a run: tokens per second, the fraction of the roofline, and the time spent waiting for data."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from flashir.train.metrics import Clock

LATEST = 20


@dataclass
class Pace:
    """The clocks of the latest steps.

    Args:
        tokens: the number of tokens per step.
        floor_ms: the lower bound of the time of a step by the roofline of the target, in milliseconds.
    """

    tokens: int
    floor_ms: float
    clocks: deque[Clock] = field(default_factory=lambda: deque(maxlen=LATEST))
    total: float = 0.0
    total_waited: float = 0.0
    steps: int = 0

    def add(self, clock: Clock) -> None:
        """Add a step. The first one includes compilation, so it counts only in the totals."""
        if self.steps:
            self.clocks.append(clock)
        self.steps += 1
        self.total += clock.step
        self.total_waited += clock.waited

    @property
    def seconds(self) -> float | None:
        """Mean seconds of the latest steps; None before the second step."""
        return sum(clock.step for clock in self.clocks) / len(self.clocks) if self.clocks else None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second of the latest steps."""
        return self.tokens / self.seconds if self.seconds else None

    @property
    def fraction(self) -> float | None:
        """The fraction of the roofline that the latest steps reach."""
        return self.floor_ms / (1e3 * self.seconds) if self.seconds else None

    @property
    def waiting(self) -> float | None:
        """The fraction of the total time spent waiting for data."""
        return self.total_waited / self.total if self.total else None
