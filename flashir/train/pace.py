"""How fast a run goes: tokens a second, the share of time waiting for data, and the time left, of the latest steps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from flashir.train.metrics import Clock

LATEST = 20


@dataclass
class Pace:
    """The clocks of the latest steps.

    Args:
        tokens: of a step.
        floor_ms: no step can be faster by the roofline of the target.
    """

    tokens: int
    floor_ms: float
    clocks: deque[Clock] = field(default_factory=lambda: deque(maxlen=LATEST))
    total: float = 0.0
    total_waited: float = 0.0
    steps: int = 0

    def add(self, clock: Clock) -> None:
        """One more step. The first has compilations in it, so it counts for the total alone."""
        if self.steps:
            self.clocks.append(clock)
        self.steps += 1
        self.total += clock.step
        self.total_waited += clock.waited

    @property
    def seconds(self) -> float | None:
        """Of a step, the mean of the latest; None before there are any."""
        return sum(clock.step for clock in self.clocks) / len(self.clocks) if self.clocks else None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens that the latest steps took in."""
        return self.tokens / self.seconds if self.seconds else None

    @property
    def fraction(self) -> float | None:
        """The share of the roofline that is reached."""
        return self.floor_ms / (1e3 * self.seconds) if self.seconds else None

    @property
    def waiting(self) -> float | None:
        """The share of their time that all steps so far waited for data."""
        return self.total_waited / self.total if self.total else None
