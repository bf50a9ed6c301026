"""Batches: which rows a step reads. A function of the seed and the step alone, so a run goes on where it was."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import count

import numpy as np

from flashir.arguments import check_fields, typed
from flashir.backends.protocols import NO_LABEL, Batch
from flashir.errors import InputError, SettingError
from flashir.train.data.corpus import Corpus, Places
from flashir.train.data.masking import mask
from flashir.train.data.packing import pack, rows_of
from flashir.train.feed import Feed

ORDER, MASKING = 0, 1  # streams of random numbers that have nothing to do with each other


@dataclass(frozen=True)
class Batches:
    """The batches of a corpus, without end: every epoch has each row once, in an order of its own.

    The rows of step n are the `rows` that follow those of step n - 1, so that two steps of 4 rows are one of 8.

    Args:
        corpus: what is read.
        task: `lm` wants the token that follows each, `mlm` the tokens that it masks.
        rows: of a batch, b.
        seq_len: tokens of a row, t.
        seed: of the order, and of what is masked.
        segments: whether the model is told which document of the row a token is of.
        vocab: the model's.
        shuffle: whether rows come in a random order, else in that of the text.
        mask: whether the model is told where there is a token; after segment ids, where both are.

    Raises:
        SettingError: a number that is too small, an unknown task.
        InputError: a vocabulary that is not the tokenizer's; a text too short to want a token.
    """

    corpus: Corpus
    task: str
    rows: int
    seq_len: int
    seed: int
    segments: bool
    vocab: int
    shuffle: bool = True
    mask: bool = False

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
        self.corpus.tokenizer.check(self.task, self.vocab)
        if self.task == "lm" and all(len(span.tokens) < 2 for span in self.corpus.spans):
            raise InputError(
                "no document has two tokens, so none follows another",
                where=self.corpus.name,
                hint="give more text, to learn from and to validate on",
            )

    @cached_property
    def rows_of_epoch(self) -> int:
        """How many rows there are until every token was read."""
        return rows_of(self.corpus, self.seq_len)

    @property
    def steps_of_epoch(self) -> int:
        """How many batches that takes, the last one filled up."""
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
        return self._batch(numbers, turns)

    def once(self) -> Iterator[Batch]:
        """Every row once, in the order of the text; rows that fill the last batch up want nothing.

        What is masked is the same on every call, so that two evaluations can be compared.
        """
        straight = replace(self, shuffle=False)
        for step in range(self.steps_of_epoch):
            batch = straight.at(step)
            batch.labels[self.rows_of_epoch - step * self.rows :] = NO_LABEL
            yield batch

    def _batch(self, numbers: Places, turns: Places) -> Batch:
        rows = pack(self.corpus, numbers, self.seq_len)
        ids, labels = rows.ids, rows.following
        if self.task == "mlm":
            ids, labels = ids.copy(), np.full_like(ids, NO_LABEL)
            for row, turn in enumerate(turns.tolist()):
                real = rows.real[row]
                draw = np.random.default_rng((MASKING, self.seed, turn))
                ids[row, real], labels[row, real] = mask(rows.ids[row, real], self.corpus.tokenizer, draw)
        beside = ((self.segments, rows.segment_ids), (self.mask, rows.real))
        return Batch((ids, *(told for wanted, told in beside if wanted)), labels)


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
