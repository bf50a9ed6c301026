"""Evaluation: how well a model predicts a text, per token, word and byte, and the validation loss of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, log
from typing import Any

import numpy as np

from flashir.backends.protocols import NO_LABEL, Batch, Trainer
from flashir.errors import InputError, option
from flashir.execution.compile import Runnable
from flashir.reference.finite import check_numbers, representable
from flashir.train.by_position import ByPosition
from flashir.train.data import Batches, Document, words
from flashir.train.metrics import perplexity


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text.

    Args:
        task: `lm` predicts every token but the first of each document, `mlm` the masked tokens.
        tokens: the number of predicted tokens.
        words: the number of words of the text, split at white space.
        bytes: the length of the text in UTF-8.
        nats: the sum of the cross-entropy over the predicted tokens.
        by_position: the same by the position of a token in its row.
    """

    task: str
    tokens: int
    words: int
    bytes: int
    nats: float
    by_position: ByPosition

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """Per-token perplexity."""
        return perplexity(self.loss)

    @property
    def word_perplexity(self) -> float | None:
        """Per-word perplexity, comparable between tokenizers; None for an MLM, which sees the other words."""
        return perplexity(self.nats / self.words if self.words else inf) if self.task == "lm" else None

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte: the size of the text as compressed by the model. None for an MLM."""
        return self.nats / log(2) / self.bytes if self.task == "lm" else None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        counts = {"task": self.task, "tokens": self.tokens, "words": self.words, "bytes": self.bytes}
        by_token = {"loss": self.loss, "perplexity": representable(self.perplexity)}
        by_word = {"word_perplexity": representable(self.word_perplexity)}
        return {**counts, **by_token, **by_word, "bits_per_byte": self.bits_per_byte}


def evaluate(
    run: Runnable, batches: Batches, texts: Sequence[Document], report: Callable[[str, int, int], object]
) -> Evaluation:
    """Evaluate a model on every token of a text, in rows that do not overlap.

    A token sees the tokens before it in its row, half a row on average, so longer rows predict better. The last token
    of a row predicts the first one of the next row.

    Args:
        run: the model.
        batches: the batches of the text.
        texts: the documents of the text.
        report: called with the progress.

    Raises:
        InputError: there is no token to predict, or the model rejects a batch.
    """
    total = ByPosition.of(batches.seq_len)
    for done, batch in enumerate(batches.once()):
        report("evaluating", done, batches.steps_of_epoch)
        labelled = (batch.labels != NO_LABEL).any(axis=1)
        inputs = [array[labelled] for array in batch.inputs]
        if labelled.any():
            total = total.plus(run(*inputs), batch.labels[labelled])
    count = int(total.tokens.sum())
    if not count:
        raise InputError("the text has no token to predict", where="data", hint="give more text")
    sizes = sum(map(words, texts)), sum(text.size for text in texts)
    return Evaluation(batches.task, count, *sizes, float(total.nats.sum()), total)


def mean_loss(trainer: Trainer, batches: Iterable[Batch]) -> float:
    """The mean cross-entropy in nats over the labels of some batches.

    Raises:
        InputError: there is no label.
        ResultError: the loss is not finite.
    """
    losses = np.array([trainer.loss(batch) for batch in batches if batch.wanted], np.float64).reshape(-1, 2)
    total, count = losses.sum(axis=0)
    if not count:
        raise InputError(
            "the held-out text has no token to predict",
            where="data",
            hint=f"give more text, or text to validate on: {option('validation', '', flag='--valid')}",
        )
    check_numbers({"the validation loss": float(total / count)})
    return float(total / count)
