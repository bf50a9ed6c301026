"""The number of inputs and of results of a run, for graphs with one or several results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from flashir.backends.protocols import Array, Run
from flashir.errors import InputError, TargetError, counted


@runtime_checkable
class SeveralResults(Protocol):
    """A `Run` whose graph may have several results. A plain call refuses those."""

    def outputs(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Run, and return every result in the order of `return`. Raises the errors of a call."""
        ...


@dataclass(frozen=True)
class SelectedResults:
    """A `Run` that returns some results of another, by their places."""

    run: Run
    places: tuple[int, ...]

    def __call__(self, arrays: Sequence[Array]) -> Array:
        """Run, and return the only result."""
        (result,) = self.outputs(arrays)
        return result

    def outputs(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Run, and return the selected results."""
        results = results_of(self.run, arrays)
        return tuple(results[place] for place in self.places)


def results_of(run: Run, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """Run, and return every result in the order of `return`. Raises the errors of the run."""
    return run.outputs(arrays) if isinstance(run, SeveralResults) else (np.asarray(run(arrays)),)


def single(results: Sequence[Array], backend: str) -> Array:
    """The result of a run. Raises TargetError if there are several."""
    if len(results) != 1:
        raise TargetError(f"the model has {len(results)} results, wanted one", where=backend)
    return results[0]


def check_count(names: Sequence[str], count: int, backend: str) -> None:
    """Raise InputError if a run does not get as many inputs as there are names."""
    if count != len(names):
        listed = f" ({', '.join(names)})" if names else ""
        raise InputError(f"the model takes {counted(len(names), 'input')}{listed}, got {count}", where=backend)
