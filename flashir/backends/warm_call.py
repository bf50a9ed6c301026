"""timed: a function to time a run, with inputs already on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from flashir.backends.protocols import Array, Resident, Run
from flashir.backends.results import results_of

WARM_UPS = 2
"""Further warm-up calls on a GPU, where training steps are first recorded and then replayed."""


def timed(run: Run, device: str, inputs: Sequence[Array]) -> Callable[[], object]:
    """A function that runs once, without transfers to or from the device. `run` must have been called before."""
    call = run.resident(inputs) if device != "cpu" and isinstance(run, Resident) else partial(_once, run, inputs)
    for _ in range(0 if device == "cpu" else WARM_UPS):
        call()
    return call


def _once(run: Run, inputs: Sequence[Array]) -> object:
    """The result of a run, or all results if there are several."""
    results = results_of(run, inputs)
    return results[0] if len(results) == 1 else results
