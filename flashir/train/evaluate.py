"""How well a model foresees a text: nats by token, by word and by byte, and the loss on held-out batches in a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, log
from typing import Any

import numpy as np

from flashir.backends.protocols import NO_LABEL, Batch, Trainer
from flashir.errors import InputError, option
from flashir.execution.compile import Runnable
from flashir.reference.cross_entropy import nats
from flashir.reference.finite import check_numbers, representable
from flashir.train.data import Batches, Document, words
from flashir.train.metrics import perplexity


@dataclass(frozen=True)
class Evaluation:
    """How well a model foresees a text.

    Args:
        task: `lm`: every token but the first of each document is foreseen; `mlm`: those that are masked are.
        tokens: how many were foreseen.
        words, bytes: of the text, split at white space, in UTF-8.
        nats: what those tokens cost, summed.
    """

    task: str
    tokens: int
    words: int
    bytes: int
    nats: float

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """By token."""
        return perplexity(self.loss)

    @property
    def word_perplexity(self) -> float | None:
        """By word: that of a model of whole words, whatever the tokenizer; an MLM, which sees the others, has none."""
        return perplexity(self.nats / self.words if self.words else inf) if self.task == "lm" else None

    @property
    def bits_per_byte(self) -> float | None:
        """The size of the text as the model would compress it."""
        return self.nats / log(2) / self.bytes if self.task == "lm" else None

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        counts = {"task": self.task, "tokens": self.tokens, "words": self.words, "bytes": self.bytes}
        by_token = {"loss": self.loss, "perplexity": representable(self.perplexity)}
        by_word = {"word_perplexity": representable(self.word_perplexity)}
        return {**counts, **by_token, **by_word, "bits_per_byte": self.bits_per_byte}


def evaluate(
    run: Runnable, batches: Batches, found: Sequence[Document], told: Callable[[str, int, int], object]
) -> Evaluation:
    """Every token of a text, in rows that do not overlap: the first of a row is foreseen from the row before.

    So a token sees at most the tokens before it in its row, half of the row on average: longer rows, better foresight.

    Args:
        run: the model.
        batches: of the text.
        found: the documents that they are of.
        told: how far it is.

    Raises:
        InputError: there is no token to foresee, or as for a run.
    """
    total, count = 0.0, 0
    for done, batch in enumerate(batches.once()):
        told("evaluating", done, batches.steps_of_epoch)
        kept = (batch.labels != NO_LABEL).any(axis=1)
        inputs = [each[kept] for each in batch.inputs]
        some, of = nats(run(*inputs), batch.labels[kept]) if kept.any() else (0.0, 0)
        total, count = total + some, count + of
    if not count:
        raise InputError("the text has no token that could be foreseen", where="data", hint="give more text")
    return Evaluation(batches.task, count, sum(map(words, found)), sum(each.size for each in found), total)


def mean_loss(trainer: Trainer, batches: Iterable[Batch]) -> float:
    """The mean cross-entropy in nats over the labels of some batches.

    Raises:
        InputError: there are none.
        ResultError: it is not finite.
    """
    found = np.array([trainer.loss(batch) for batch in batches if batch.wanted], np.float64).reshape(-1, 2)
    total, count = found.sum(axis=0)
    if not count:
        raise InputError(
            "the held-out text has no token that could be foreseen",
            where="data",
            hint=f"give more text, or text to validate on: {option('validation', '', flag='--valid')}",
        )
    check_numbers({"the validation loss": float(total / count)})
    return float(total / count)
