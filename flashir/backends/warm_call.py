"""timed: a run as something to time, on inputs that lie where it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from flashir.backends.protocols import Array, Resident, Run
from flashir.backends.results import results_of

WARM_UPS = 2
"""Calls on a card, after the first, until it is as fast as it gets: training steps are recorded and replayed there."""


def timed(run: Run, device: str, inputs: Sequence[Array]) -> Callable[[], object]:
    """One run of what has been called once. To and from a device with a memory of its own, nothing is moved."""
    call = run.resident(inputs) if device != "cpu" and isinstance(run, Resident) else partial(_once, run, inputs)
    for _ in range(0 if device == "cpu" else WARM_UPS):
        call()
    return call


def _once(run: Run, inputs: Sequence[Array]) -> object:
    """The result of a run; of several results, all."""
    results = results_of(run, inputs)
    return results[0] if len(results) == 1 else results
