"""The loss by the position of a token in its row: what a token gains from text further back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt

from flashir.backends.score import NOTHING, Score
from flashir.reference.cross_entropy import score
from flashir.reference.finite import representable
from flashir.train.metrics import perplexity

SMALLEST = 16
"""Tokens of the first part of a row; every later part ends at twice the position."""


@dataclass(frozen=True)
class ByPosition:
    """Scores of parts of rows, whose ends double: 16, 32, 64, .., the length of a row.

    Args:
        ends: the position where each part ends.
        scores: how well the tokens of each part are predicted.
    """

    ends: tuple[int, ...]
    scores: tuple[Score, ...]

    @staticmethod
    def of(seq_len: int) -> ByPosition:
        """Nothing yet, for rows of a length."""
        doubled = [SMALLEST << power for power in range(64) if SMALLEST << power < seq_len]
        ends = (*doubled, seq_len)
        return ByPosition(ends, (NOTHING,) * len(ends))

    @property
    def total(self) -> Score:
        """The score of all parts together."""
        return sum(self.scores, NOTHING)

    def plus(self, logits: npt.NDArray[Any], labels: npt.NDArray[Any]) -> ByPosition:
        """With the rows of a batch: logits [b, t, v], labels [b, t]."""
        parts = zip((0, *self.ends), self.ends, self.scores)
        scores = (known + score(logits[:, start:end], labels[:, start:end]) for start, end, known in parts)
        return replace(self, scores=tuple(scores))

    def as_dict(self) -> list[dict[str, Any]]:
        """The JSON form: for each part that has tokens, its first and last position, its loss and perplexity."""
        return [
            {
                "from": start,
                "to": end,
                "tokens": part.labels,
                "loss": part.loss,
                "perplexity": representable(perplexity(part.loss)),
            }
            for start, end, part in zip((0, *self.ends), self.ends, self.scores)
            if part.labels
        ]
