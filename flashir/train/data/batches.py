"""Batches: which rows a step reads. A function of the seed and the step alone, so a run goes on where it was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import count
from typing import Self

import numpy as np

from flashir.arguments import check_fields, typed
from flashir.backends.training import NO_LABEL, Batch
from flashir.errors import SettingError
from flashir.train.data.corpus import Places
from flashir.train.feed import Feed

ORDER = 0
"""The stream of random numbers for the order of rows; others are independent of it."""


class Batches(ABC):
    """Batches without end: every epoch has each row once, in an order of its own.

    The rows of step n are the `rows` that follow those of step n - 1, so that two steps of 4 rows are one of 8.
    Subclasses are frozen dataclasses, whose fields say what a row is.

    Args:
        task: what the rows are labelled for, such as `lm`.
        rows: rows per batch, b.
        seq_len: tokens per row, t.
        seed: the seed of the order.
        shuffle: whether rows come in a random order; otherwise in that of the data.
    """

    task: str
    rows: int
    seq_len: int
    seed: int
    shuffle: bool

    def __post_init__(self) -> None:
        check_fields(self)
        smallest = {"rows": 1, "seq_len": 1, "seed": 0}
        problems = [
            f"{name} must be a whole number from {least}, got {value}"
            for name, least in smallest.items()
            if (value := getattr(self, name)) < least
        ]
        if problems:
            raise SettingError(problems, where="batches")

    @property
    @abstractmethod
    def rows_of_epoch(self) -> int:
        """The number of rows until everything was read once."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """The digest of the data, in hexadecimal."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the rows."""
        return ()

    @abstractmethod
    def read(self, numbers: Places, turns: Places) -> Batch:
        """The rows of those numbers. A row that is drawn at random is a function of its turn, counted over epochs."""

    @property
    def steps_of_epoch(self) -> int:
        """The number of batches per epoch, the last one filled up."""
        return -(-self.rows_of_epoch // self.rows)

    @typed
    def at(self, step: int) -> Batch:
        """The batch of a step, counted from 0; steps without end, epoch after epoch."""
        turns = np.arange(step * self.rows, (step + 1) * self.rows)
        epochs, places = np.divmod(turns, self.rows_of_epoch)
        numbers = places.copy()
        if self.shuffle:
            for epoch in np.unique(epochs).tolist():
                numbers[epochs == epoch] = _order(self.seed, epoch, self.rows_of_epoch)[places[epochs == epoch]]
        return self.read(numbers, turns)

    def once(self) -> Iterator[Batch]:
        """Every row once, in the order of the data; rows that fill up the last batch have no labels.

        What is drawn is the same on every call, so that two evaluations can be compared.
        """
        straight = self.in_order()
        for step in range(self.steps_of_epoch):
            batch = straight.at(step)
            batch.labels[self.rows_of_epoch - step * self.rows :] = NO_LABEL
            yield batch

    @abstractmethod
    def in_order(self) -> Self:
        """The same rows in the order of the data."""


def ahead(batches: Feed, first: int = 0, depth: int = 2) -> Iterator[Batch]:
    """The batches from a step on, `depth` of them read in a thread before they are asked for; close it to end that."""
    with ThreadPoolExecutor(1, "read-ahead") as reader:
        waiting = deque(reader.submit(batches.at, step) for step in range(first, first + depth))
        for step in count(first + depth):
            batch = waiting.popleft().result()
            waiting.append(reader.submit(batches.at, step))
            yield batch


@lru_cache(maxsize=2)  # a batch may end one epoch and begin the next
def _order(seed: int, epoch: int, rows: int) -> Places:
    return np.random.default_rng((ORDER, seed, epoch)).permutation(rows)
