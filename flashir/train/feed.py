"""What a run learns from: `Data` makes the two feeds of a run, one to learn from and one to validate on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from flashir.backends.training import Batch
from flashir.ir import Graph
from flashir.train.recipe import Recipe


class Feed(Protocol):
    """Batches, each a function of its number alone, so that a run resumes where it was."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the rows."""
        ...

    def at(self, step: int) -> Batch:
        """The batch with a number from 0, without end."""
        ...

    def once(self) -> Iterator[Batch]:
        """The same batches in the same order on every call, to evaluate on."""
        ...


class Data(Protocol):
    """The text, the labelled examples or the task of a run."""

    @property
    def digests(self) -> Mapping[str, str]:
        """Digests by name. They tell a resumed run whether its data have changed."""
        ...

    def feeds(self, model: Graph, recipe: Recipe) -> tuple[Feed, Feed]:
        """The parts of batches to learn from, and those to validate on. Raises InputError if they do not fit."""
        ...

    def log_frequencies(self, size: int) -> npt.NDArray[np.float32]:
        """The log of the share of each of `size` tokens or labels among those to predict, [size]; all finite."""
        ...


def log_shares(counts: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
    """The log of each share, by counts. Each counts once more than it occurs, so all are finite."""
    more = counts + 1.0
    shares: npt.NDArray[np.float32] = np.log(more / more.sum()).astype(np.float32)
    return shares
