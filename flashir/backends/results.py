"""The results of a run as a tuple, for graphs with one or several results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from flashir.backends.protocols import Array, Run


@runtime_checkable
class SeveralResults(Protocol):
    """A `Run` whose graph may have several results. A plain call refuses those."""

    def outputs(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Run, and return every result in the order of `return`. Raises the errors of a call."""
        ...


def results_of(run: Run, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """Run, and return every result in the order of `return`. Raises the errors of the run."""
    return run.outputs(arrays) if isinstance(run, SeveralResults) else (np.asarray(run(arrays)),)
