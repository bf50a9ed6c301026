"""Displays a comparison on stderr: which run begins, how long the rest takes, and what each run learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean
from time import monotonic

from flashir.cli import console
from flashir.cli.forecast import duration
from flashir.cli.training import progress
from flashir.compare.trial import Row, Trial
from flashir.train.loop import Progress
from flashir.train.metrics import perplexity


@dataclass
class Comparing:
    """Prints a line before each run and one after it."""

    trials: Sequence[Trial]
    _seconds: list[float] = field(default_factory=list)
    _begun: float = 0.0

    def begins(self, trial: Trial) -> Progress:
        """Print which run begins, and how long the rest takes as soon as one was measured."""
        self._begun = monotonic()
        number = self.trials.index(trial) + 1
        rate = "the rate by width" if trial.recipe.learning_rate is None else f"rate {trial.recipe.learning_rate:g}"
        line = f"run {number} of {len(self.trials)}: {trial.name}, {rate}, seed {trial.recipe.seed}"
        if self._seconds:
            left = sum(not trial.is_done for trial in self.trials)
            line += f"; about {duration(mean(self._seconds) * left)} for the rest"
        console.note(line, "bold")
        return progress()

    def ended(self, row: Row) -> None:
        """Print what the run learned."""
        self._seconds.append(monotonic() - self._begun)
        console.note(_learned(row))


def _learned(row: Row) -> str:
    if "failed" in row:
        return f"diverged: {row['failed']}"
    if "accuracy" in row:
        return ", ".join(f"right at {distance}: {share:.2f}" for distance, share in row["accuracy"].items())
    return f"perplexity {perplexity(row['validation_loss']):,.4g}"
