"""Evaluation: how well a model predicts a text or labels, and the validation of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, log
from typing import Any

import numpy as np

from flashir.backends.score import NOTHING, Score
from flashir.backends.training import NO_LABEL, Batch, Trainer
from flashir.errors import InputError, option
from flashir.execution.compile import Runnable
from flashir.reference.arrays import Array
from flashir.reference.cross_entropy import score
from flashir.reference.finite import check_numbers, representable
from flashir.train.by_position import ByPosition
from flashir.train.data import Document, Labelled, LabelledBatches, TextBatches, words
from flashir.train.metrics import perplexity

Report = Callable[[str, int, int], object]


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text.

    Args:
        task: `lm` predicts every token but the first of each document, `mlm` the masked tokens.
        tokens: the number of predicted tokens.
        words: the number of words of the text, split at white space.
        bytes: the length of the text in UTF-8.
        nats: the sum of the cross-entropy over the predicted tokens.
        right: the number of tokens that have the highest score.
        by_position: the same by the position of a token in its row.
    """

    task: str
    tokens: int
    words: int
    bytes: int
    nats: float
    right: int
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
        by_token["accuracy"] = self.right / self.tokens
        by_word = {"word_perplexity": representable(self.word_perplexity)}
        return {**counts, **by_token, **by_word, "bits_per_byte": self.bits_per_byte}


@dataclass(frozen=True)
class LabelEvaluation:
    """How well a model predicts labels.

    Args:
        task: `class` predicts a label of each example, `tags` labels of their words.
        examples: the number of examples.
        names: the names of the labels.
        score: the score of all labels.
        counts: how often each label is the true one.
        right: how often it is predicted then.
        predicted: how often it is predicted.
    """

    task: str
    examples: int
    names: tuple[str, ...]
    score: Score
    counts: tuple[int, ...]
    right: tuple[int, ...]
    predicted: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """The JSON form. Recall and precision are null for labels that do not occur, or are never predicted."""
        of_each = zip(self.names, self.counts, self.right, self.predicted, strict=True)
        return {
            "task": self.task,
            "examples": self.examples,
            "labels": self.score.labels,
            "loss": self.score.loss,
            "accuracy": self.score.accuracy,
            "by_label": {
                name: {
                    "count": count,
                    "recall": right / count if count else None,
                    "precision": right / predicted if predicted else None,
                }
                for name, count, right, predicted in of_each
            },
        }


def evaluate(run: Runnable, batches: TextBatches, texts: Sequence[Document], report: Report) -> Evaluation:
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
    parts = ByPosition.of(batches.seq_len)
    for scored in _scores(run, batches, report):
        parts = parts.plus(*scored)
    total = parts.total
    if not total.labels:
        raise InputError("the text has no token to predict", where="data", hint="give more text")
    sizes = sum(map(words, texts)), sum(text.size for text in texts)
    return Evaluation(batches.task, total.labels, *sizes, total.nats, total.right, parts)


def evaluate_labels(run: Runnable, batches: LabelledBatches, data: Labelled, report: Report) -> LabelEvaluation:
    """Evaluate a model on every label of the data. Raises InputError if the model rejects a batch."""
    total, width = NOTHING, len(data.names)
    counts, right, predicted = (np.zeros(width, np.int64) for _ in range(3))
    for scores, labels in _scores(run, batches, report):
        total += score(scores, labels)
        real, best = labels[labels != NO_LABEL], scores.argmax(-1)[labels != NO_LABEL]
        counts += np.bincount(real, minlength=width)
        predicted += np.bincount(best, minlength=width)
        right += np.bincount(real[real == best], minlength=width)
    of_labels = (tuple(map(int, numbers)) for numbers in (counts, right, predicted))
    return LabelEvaluation(batches.task, len(data), data.names, total, *of_labels)


def _scores(run: Runnable, batches: TextBatches | LabelledBatches, report: Report) -> Iterator[tuple[Array, Array]]:
    """The scores and the labels of the rows that have labels. The first result of a model is its scores."""
    for done, batch in enumerate(batches.once()):
        report("evaluating", done, batches.steps_of_epoch)
        labelled = (batch.labels.reshape(len(batch.labels), -1) != NO_LABEL).any(axis=1)
        if labelled.any():
            result = run(*(array[labelled] for array in batch.inputs))
            yield result[0] if isinstance(result, tuple) else result, batch.labels[labelled]


def validate(trainer: Trainer, batches: Iterable[Batch]) -> Score:
    """The score of some batches.

    Raises:
        InputError: there is no label.
        ResultError: the loss is not finite.
    """
    total = sum((trainer.score(batch) for batch in batches if batch.wanted), NOTHING)
    if not total.labels:
        raise InputError(
            "the held-out data have nothing to predict",
            where="data",
            hint=f"give more data, or data to validate on: {option('validation', '', flag='--valid')}",
        )
    check_numbers({"the validation loss": total.loss})
    return total
