"""Batches of a text: packed rows, labelled with the tokens that follow or that are masked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

from flashir.backends.training import NO_LABEL, Batch
from flashir.errors import InputError
from flashir.train.data.batches import Batches
from flashir.train.data.corpus import Corpus, Places
from flashir.train.data.masking import mask
from flashir.train.data.packing import pack, rows_of

MASKING = 1
"""The stream of random numbers for masked tokens, independent of that for the order."""


@dataclass(frozen=True)
class TextBatches(Batches):
    """The batches of a corpus.

    Args:
        corpus: what is read.
        task: `lm` wants the token that follows each, `mlm` the tokens that it masks.
        rows: of a batch, b.
        seq_len: tokens of a row, t.
        seed: the seed of the order of rows and of the masks.
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
        super().__post_init__()
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
    def digest(self) -> str:
        """That of the corpus."""
        return self.corpus.digest

    def in_order(self) -> Self:
        """The same rows in the order of the text."""
        return replace(self, shuffle=False)

    def read(self, numbers: Places, turns: Places) -> Batch:
        """Packed rows; the masked tokens of each are a function of its turn."""
        rows = pack(self.corpus, numbers, self.seq_len)
        ids, labels = rows.ids, rows.following
        if self.task == "mlm":
            ids, labels = ids.copy(), np.full_like(ids, NO_LABEL)
            for row, turn in enumerate(turns.tolist()):
                real = rows.real[row]
                draw = np.random.default_rng((MASKING, self.seed, turn))
                ids[row, real], labels[row, real] = mask(rows.ids[row, real], self.corpus.tokenizer, draw)
        beside = ((self.segments, rows.segment_ids), (self.mask, rows.real))
        return Batch((ids, *(values for wanted, values in beside if wanted)), labels)
