"""The labels that a model predicts, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.reference.cross_entropy import log_softmax

SHOWN = 5


@dataclass(frozen=True)
class Predicted:
    """Predicted labels.

    Args:
        labels: the best label of each row, [b]; or of each token, [b][t], None for padding.
        top: the most likely labels of the first row with their probabilities; or of all tokens with their shares.
    """

    labels: list[Any]
    top: tuple[tuple[str, float], ...]

    @staticmethod
    def of(scores: npt.NDArray[Any], names: Sequence[str], mask: npt.NDArray[Any] | None) -> Predicted | None:
        """The labels of scores [b, n] or [b, t, n]; None if there are no names for n labels."""
        if not names or scores.shape[-1:] != (len(names),) or not scores.size:
            return None
        best = scores.argmax(-1)
        if scores.ndim == 2:
            chances = np.exp(log_softmax(scores[0]))
            return Predicted([names[label] for label in best.tolist()], _top(names, chances))
        real = np.ones(best.shape, np.bool_) if mask is None else mask
        counts = np.bincount(best[real], minlength=len(names))
        rows = zip(best.tolist(), real.tolist(), strict=True)
        labels = [[names[label] if seen else None for label, seen in zip(*row, strict=True)] for row in rows]
        return Predicted(labels, _top(names, counts / max(1, counts.sum())))

    def __str__(self) -> str:
        return "  ".join(f"{name} {share:.1%}" for name, share in self.top)


def _top(names: Sequence[str], shares: npt.NDArray[Any]) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-shares, kind="stable")[:SHOWN].tolist()
    return tuple((names[place], float(shares[place])) for place in order)
