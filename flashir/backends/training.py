"""Training as a backend provides it: batches, the optimiser, and the protocol of a trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from flashir.backends.score import Score
from flashir.errors import InputError
from flashir.ir.graph import Graph

Array = npt.NDArray[Any]

NO_LABEL = -1
"""The label of a position without a target, such as the unmasked tokens of an MLM."""


@dataclass(frozen=True)
class Batch:
    """A training batch.

    Args:
        inputs: in order: ids int64 [b, t] or features float32 [b, t, d], then segment_ids and mask, if there are any.
        labels: of each position, int64 [b, t], or of each row, [b]; `NO_LABEL` for none.
    """

    inputs: tuple[Array, ...]
    labels: Array

    @property
    def wanted(self) -> int:
        """The number of labels."""
        return int(np.count_nonzero(self.labels != NO_LABEL))


def count_labels(graph: Graph, batches: Sequence[Batch], least: int = 1) -> int:
    """The number of labels in all batches, for a graph whose result is scores [.., v].

    Raises:
        InputError: there are fewer than `least`, or one is outside 0 .. v - 1.
    """
    vocab = graph.outputs[0].type.shape[-1]
    assert isinstance(vocab, int)
    for batch in batches:
        outside = (batch.labels != NO_LABEL) & ((batch.labels < 0) | (batch.labels >= vocab))
        if outside.any():
            first = tuple(int(index) for index in np.argwhere(outside)[0])
            raise InputError(
                f"{np.count_nonzero(outside)} labels are outside 0 .. {vocab - 1}, the first at {first}: "
                f"{batch.labels[first]}",
                hint=f"the label of a position without a target is {NO_LABEL}",
            )
    total = sum(batch.wanted for batch in batches)
    if total < least:
        raise InputError("there are no labels to learn from", hint="give a step more rows, or longer ones")
    return total


@dataclass(frozen=True)
class AdamW:
    """The AdamW optimiser, with the hyperparameters of Table 6.

    Args:
        beta1, beta2: the decay rates of the means of the gradients and of their squares.
        epsilon: added to the root of the mean square.
        weight_decay: decoupled weight decay; multiplied by the learning rate.
        clip: the largest L2 norm of the gradient of one parameter (per layer), which larger gradients are scaled to
            ("local gradient clipping"). None disables clipping.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    clip: float | None = None


@dataclass(frozen=True)
class Step:
    """The result of an optimiser step.

    Args:
        loss: the mean cross-entropy in nats over all labels, before the step.
        gradient_norm: the L2 norm of the gradient of all parameters together, before clipping.
    """

    loss: float
    gradient_norm: float


class Trainer(Protocol):
    """A model in training: its parameters and the state of the optimiser.

    On a CPU, equal states and batches give bitwise equal results.

    In data-parallel training, all processes call each method together with the same arguments, and each computes some
    of the rows. The result is the same in all processes, and the same as in a single one.
    """

    def step(self, batches: Sequence[Batch], learning_rate: float) -> Step:
        """Make one optimiser step with the mean cross-entropy over all labels of all batches.

        So a batch may be split into micro-batches to save memory. They may have different numbers of labels.

        Raises:
            InputError: there are no labels, or one is outside the vocabulary.
            TargetError: another process is gone.
        """
        ...

    def score(self, batch: Batch) -> Score:
        """How well the model predicts the labels of a batch, which may have none. Changes no state.

        Raises:
            InputError: a label is outside the vocabulary.
            TargetError: another process is gone.
        """
        ...

    def agreed(self, wish: bool) -> bool:
        """Whether any process passes True, such as to stop because it received a signal."""
        ...

    def params(self) -> dict[str, Array]:
        """The float32 parameters (master weights) by full name; empty in all processes but the first."""
        ...

    def state(self) -> dict[str, Array]:
        """The state of the optimiser, in a form that every backend can resume from.

        `mean.<full name>` and `square.<full name>`, float32 in the shape of the parameter: the means of its gradients
        and of their squares. `count`, int64 []: the number of steps. Empty in all processes but the first.
        """
        ...
