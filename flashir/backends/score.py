"""The score of a model: how well it predicts labels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """How well a model predicts labels.

    Args:
        nats: the sum of the cross-entropy over the labels.
        labels: their number.
        right: the number of labels that have the highest score of their position.
    """

    nats: float
    labels: int
    right: int

    def __add__(self, other: Score) -> Score:
        """The score of both sets of labels together."""
        return Score(self.nats + other.nats, self.labels + other.labels, self.right + other.right)

    @property
    def loss(self) -> float:
        """The mean cross-entropy in nats."""
        return self.nats / self.labels

    @property
    def accuracy(self) -> float:
        """The fraction of the labels that are right."""
        return self.right / self.labels


NOTHING = Score(0.0, 0, 0)
"""The score of no labels."""
