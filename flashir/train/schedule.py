"""The learning rate schedule: linear warm-up to the peak, then linear decay (Tables 5 and 6)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A positive learning rate for each step.

    Args:
        peak: the learning rate of step number `warmup`.
        warmup: the number of warm-up steps.
        steps: the total number of steps.
    """

    peak: float
    warmup: int
    steps: int

    def __call__(self, number: int) -> float:
        """The learning rate of a step, numbered from 1."""
        warming = number / self.warmup if self.warmup else 1.0
        return self.peak * min(warming, (self.steps + 1 - number) / (self.steps + 1 - self.warmup))
