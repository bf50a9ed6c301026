"""The learning rate of every step: a linear warm-up to the peak, and a linear decay (Tables 5 and 6)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A learning rate for each of `steps` steps, none of them 0.

    Args:
        peak: that of step number `warmup`.
        warmup: steps over which it grows.
        steps: all of them.
    """

    peak: float
    warmup: int
    steps: int

    def __call__(self, number: int) -> float:
        """The learning rate of the step of that number, from 1."""
        growing = number / self.warmup if self.warmup else 1.0
        return self.peak * min(growing, (self.steps + 1 - number) / (self.steps + 1 - self.warmup))
