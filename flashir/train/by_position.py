"""The loss by the position of a token in its row: what a token gains from text further back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.reference.cross_entropy import nats
from flashir.reference.finite import representable
from flashir.train.metrics import perplexity

SMALLEST = 16
"""Tokens of the first part of a row; every later part ends at twice the position."""


@dataclass(frozen=True)
class ByPosition:
    """Sums of the cross-entropy over parts of rows, whose ends double: 16, 32, 64, .., the length of a row.

    Args:
        ends: the position where each part ends.
        nats: the sum of the cross-entropy in each part.
        tokens: the number of predicted tokens in each part.
    """

    ends: tuple[int, ...]
    nats: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]

    @staticmethod
    def of(seq_len: int) -> ByPosition:
        """Nothing yet, for rows of a length."""
        doubled = [SMALLEST << power for power in range(64) if SMALLEST << power < seq_len]
        ends = (*doubled, seq_len)
        return ByPosition(ends, np.zeros(len(ends)), np.zeros(len(ends), np.int64))

    def plus(self, logits: npt.NDArray[Any], labels: npt.NDArray[Any]) -> ByPosition:
        """With the rows of a batch: logits [b, t, v], labels [b, t]."""
        parts = [slice(start, end) for start, end in zip((0, *self.ends), self.ends)]
        sums = [nats(logits[:, part], labels[:, part]) for part in parts]
        total, count = zip(*sums)
        return replace(self, nats=self.nats + total, tokens=self.tokens + count)

    def as_dict(self) -> list[dict[str, Any]]:
        """The JSON form: for each part that has tokens, its first and last position, its loss and perplexity."""
        parts = zip((0, *self.ends), self.ends, self.nats, self.tokens)
        return [
            {
                "from": start,
                "to": end,
                "tokens": int(count),
                "loss": float(total / count),
                "perplexity": representable(perplexity(float(total / count))),
            }
            for start, end, total, count in parts
            if count
        ]
