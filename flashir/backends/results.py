"""The results of a run, one by one: a graph may return several values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from flashir.backends.protocols import Array, Run


@runtime_checkable
class SeveralResults(Protocol):
    """A `Run` whose graph may return several values; called, it refuses those."""

    def outputs(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Run once; every result in the order of `return`. Raises as a call does."""
        ...


def results_of(run: Run, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """Run once; every result in the order of `return`. Raises what the run raises."""
    return run.outputs(arrays) if isinstance(run, SeveralResults) else (np.asarray(run(arrays)),)
