"""A task as the data of a run: new rows for every step, and the same rows to validate every run on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from flashir.backends.training import NO_LABEL, Batch
from flashir.compare.tasks import Examples, Task
from flashir.errors import InputError
from flashir.ir import Graph
from flashir.train.feed import log_shares
from flashir.train.recipe import Recipe

LEARNED, HELD_OUT, COUNTED = 0, 1, 2  # streams of random numbers
HELD_OUT_ROWS = 128
COUNTED_ROWS = 1024
"""Rows whose answers stand for how often each one is right."""


@dataclass(frozen=True)
class TaskData:
    """The data of a task."""

    task: Task

    @property
    def digests(self) -> Mapping[str, str]:
        """A digest of the task and its settings."""
        text = f"{self.task.name} {sorted(asdict(self.task).items())}"
        return {"data": hashlib.sha256(text.encode()).hexdigest()}

    def feeds(self, model: Graph, recipe: Recipe) -> tuple[TaskFeed, TaskFeed]:
        """Rows to learn from, by the seed of the recipe, and rows to validate on, the same for every seed."""
        if len(model.inputs) != 1:
            raise InputError("a task has tokens alone, and the model takes more inputs", where=f"@{model.name}")
        rows = recipe.rows or recipe.batch
        return TaskFeed(self.task, rows, LEARNED, recipe.seed), TaskFeed(self.task, rows, HELD_OUT, 0)

    def log_frequencies(self, size: int) -> npt.NDArray[np.float32]:
        """Of each token among the answers; see `log_shares`."""
        labels = self.task.examples(np.random.default_rng(COUNTED), COUNTED_ROWS).labels
        return log_shares(np.bincount(labels[labels != NO_LABEL], minlength=size))


@dataclass(frozen=True)
class TaskFeed:
    """Batches of `rows` rows of a task, each from the stream, the seed and its number."""

    task: Task
    rows: int
    stream: int
    seed: int
    notes: tuple[str, ...] = ()

    def at(self, step: int) -> Batch:
        """The batch with a number from 0."""
        drawn = self.examples(step)
        return Batch((drawn.ids,), drawn.labels)

    def once(self) -> Iterator[Batch]:
        """The batches to validate on."""
        for drawn in self.held_out:
            yield Batch((drawn.ids,), drawn.labels)

    @cached_property
    def held_out(self) -> tuple[Examples, ...]:
        """The rows to validate on, in batches."""
        return tuple(self.examples(step) for step in range(-(-HELD_OUT_ROWS // self.rows)))

    def examples(self, step: int) -> Examples:
        """The rows of a batch, and at which distance each asks."""
        return self.task.examples(np.random.default_rng((self.stream, self.seed, step)), self.rows)
