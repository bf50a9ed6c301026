"""Batches of labelled examples: one example a row, cut or padded to the length of a row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from flashir.backends.training import NO_LABEL, Batch
from flashir.errors import InputError
from flashir.train.data.batches import Batches
from flashir.train.data.corpus import Places
from flashir.train.data.labelled import Labelled


@dataclass(frozen=True)
class LabelledBatches(Batches):
    """The batches of labelled examples.

    Args:
        data: the examples.
        task: `class` for labels [b], `tags` for labels [b, t].
        rows: rows per batch, b.
        seq_len: tokens per row, t. Longer examples are cut, shorter ones padded.
        seed: the seed of the order.
        segments: whether the model takes segment ids; a row is one document.
        mask: whether the model takes a padding mask, after segment ids if it takes both.
        shuffle: whether rows come in a random order; otherwise in that of the data.

    Raises:
        SettingError: a number is too small.
        InputError: rows have padding, and the model takes no mask; or all labels are cut off.
    """

    data: Labelled
    task: str
    rows: int
    seq_len: int
    seed: int
    segments: bool = False
    mask: bool = True
    shuffle: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        lengths = [len(x) for x in self.data.inputs]
        if not self.mask and min(lengths) < self.seq_len:
            raise InputError(
                f"examples have {min(lengths)} to {max(lengths)} tokens in rows of {self.seq_len}, and the model takes "
                "no mask to hide the padding",
                where=self.data.name,
                hint="make the model with mask=true",
            )
        if self.task == "tags" and all((labels[: self.seq_len] == NO_LABEL).all() for labels in self.data.labels):
            raise InputError(f"no label is left in rows of {self.seq_len} tokens", where=self.data.name)

    @property
    def rows_of_epoch(self) -> int:
        """One for each example."""
        return len(self.data)

    @property
    def digest(self) -> str:
        """That of the examples."""
        return self.data.digest

    @property
    def notes(self) -> tuple[str, ...]:
        """How many examples are cut, or how much of the rows is padding if it is most of them."""
        lengths = np.array([len(x) for x in self.data.inputs])
        longer, longest = int(np.count_nonzero(lengths > self.seq_len)), int(lengths.max())
        if longer:
            return (f"{longer} of {len(lengths)} examples are longer than {self.seq_len} tokens, and are cut",)
        if 2 * longest <= self.seq_len:
            return (f"examples have at most {longest} tokens: shorter rows than {self.seq_len} would train faster",)
        return ()

    def in_order(self) -> Self:
        """The same rows in the order of the data."""
        return replace(self, shuffle=False)

    def read(self, numbers: Places, turns: Places) -> Batch:
        """The examples of those numbers."""
        shape, one = (len(numbers), self.seq_len), self.data.inputs[0]
        inputs, real = np.zeros((*shape, *one.shape[1:]), one.dtype), np.zeros(shape, np.bool_)
        labels = np.full(shape[:1] if self.task == "class" else shape, NO_LABEL, np.int64)
        for row, number in enumerate(numbers.tolist()):
            example, label = self.data.inputs[number][: self.seq_len], self.data.labels[number]
            inputs[row, : len(example)], real[row, : len(example)] = example, True
            if self.task == "class":
                labels[row] = label
            else:
                labels[row, : len(example)] = label[: len(example)]
        beside = ((self.segments, np.zeros(shape, np.int64)), (self.mask, real))
        return Batch((inputs, *(values for wanted, values in beside if wanted)), labels)
