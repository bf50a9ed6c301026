"""calibrate: fit a target's record to the machine at hand, by a few micro-kernels, in seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import sqrt
from statistics import quantiles
from typing import Any

import numpy as np

from flashir.cost.catalogue import target
from flashir.cost.kernels import MicroKernel, kernels
from flashir.cost.model import estimate
from flashir.cost.profile import SCHEMA, profile_key, profile_path, with_numbers
from flashir.cost.target import RANGES, Target
from flashir.errors import TargetError
from flashir.files import atomic_write
from flashir.ir import Graph
from flashir.ir.naming import parameters
from flashir.lowering import Lowering
from flashir.registry import backend
from flashir.timed import timed

ROUNDS = 25
WIDEST_SPREAD = 0.5
SWEEPS, HALVINGS = 4, 40
LEAST = 1e-9  # where a number may be 0


@dataclass(frozen=True)
class Timing:
    """How long a micro-kernel takes.

    Args:
        kernel: its name.
        tells: the number of the record that it decides.
        ms: the lower quartile of all rounds; what else runs on the machine can only add to it.
        spread: the distance of the quartiles over `ms`.
    """

    kernel: str
    tells: str
    ms: float
    spread: float


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` found.

    Args:
        before, after: the record as it was, and with the numbers fitted.
        timings: one for each micro-kernel.
        path: where the profile was written.
    """

    before: Target
    after: Target
    timings: tuple[Timing, ...]
    path: str

    def as_dict(self) -> dict[str, Any]:
        """As the command line prints it with `--json`."""
        fitted = {
            t.tells: {"before": self.before.number(t.tells), "after": self.after.number(t.tells)} for t in self.timings
        }
        timings = {t.kernel: {"ms": t.ms, "spread": t.spread} for t in self.timings}
        return {"target": self.after.name, "numbers": fitted, "timings": timings, "path": self.path}


def calibrate(name: str, progress: Callable[[str, int, int], None] = lambda what, done, of: None) -> Calibration:
    """Measure, fit, and keep the profile for this processor and these versions of the libraries.

    Args:
        name: a target whose device is at hand, such as `onnx:cpu`.
        progress: told what is done: a word, how many rounds, of how many.

    Raises:
        TargetError: the device is not at hand, or the machine is too busy to tell, with the spread of each kernel.
        ArtefactError: the profile cannot be written.
    """
    record = target(name)
    if not record.is_here or record.device not in backend(record.backend).devices():
        raise TargetError(f"{name} is not at hand, so it cannot be measured", mend="`flashir targets` says what is")
    graphs = {kernel.name: Lowering.of(name).run(kernel.graph()) for kernel in kernels(record.device)}
    timings = _timings(graphs, record, progress)
    busy = [f"{t.kernel}: quartiles {t.spread:.0%} apart" for t in timings if t.spread > WIDEST_SPREAD]
    if busy:
        raise TargetError(
            [f"{each}, more than {WIDEST_SPREAD:.0%}" for each in busy],
            where="the machine is too busy to calibrate",
            mend="stop what else runs, and try again; the profile stays as it was",
        )
    fitted = fit(record, graphs, {t.kernel: t.ms for t in timings})
    path = profile_path(name)
    profile = {
        "schema": SCHEMA,
        "date": datetime.now(UTC).date().isoformat(),
        "key": profile_key(record),
        "numbers": {t.tells: fitted.number(t.tells) for t in timings},
    }
    atomic_write(path, lambda file: file.write(json.dumps(profile, indent=2).encode()))
    return Calibration(record, fitted, timings, str(path))


def fit(record: Target, graphs: Mapping[str, Graph], measured_ms: Mapping[str, float]) -> Target:
    """The record under which the cost model predicts what was measured.

    Each micro-kernel decides the one number that it `tells`, given all the others: predictions grow, or fall, with
    every number, so halving the interval finds it. A few sweeps over all kernels settle how the numbers depend on
    one another. A number that cannot explain its kernel stays as it was: small sums say nothing of the cache where they
    are all one kernel.
    """
    told = [kernel for kernel in kernels(record.device) if kernel.name in measured_ms]
    for _ in range(SWEEPS):
        for kernel in told:
            record = _solve(record, kernel, graphs[kernel.name], measured_ms[kernel.name])
    return record


def _solve(record: Target, kernel: MicroKernel, graph: Graph, wanted: float) -> Target:
    low, high = RANGES[kernel.tells.partition(".")[0]]
    low = max(low, LEAST)

    def predicted(value: float) -> float:
        return estimate(graph, with_numbers(record, {kernel.tells: value}, "fitted"), {}).ms

    at_low, at_high = predicted(low), predicted(high)
    rising = at_high > at_low
    if not min(at_low, at_high) < wanted < max(at_low, at_high):
        return record
    for _ in range(HALVINGS):
        middle = sqrt(low * high)
        if (predicted(middle) > wanted) == rising:
            high = middle
        else:
            low = middle
    return with_numbers(record, {kernel.tells: sqrt(low * high)}, "fitted on this machine")


def _timings(
    graphs: Mapping[str, Graph], record: Target, progress: Callable[[str, int, int], None]
) -> tuple[Timing, ...]:
    """Every kernel once a round, so that what slows the machine down for a while hits all alike."""
    runs = {name: _run(graph, record) for name, graph in graphs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for number in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
        progress("measuring", number + 1, ROUNDS)
    return tuple(_timing(kernel, seconds[kernel.name]) for kernel in kernels(record.device))


def _timing(kernel: MicroKernel, seconds: Sequence[float]) -> Timing:
    lower, _, upper = quantiles(seconds, n=4)
    return Timing(kernel.name, kernel.tells, 1e3 * lower, (upper - lower) / lower)


def _run(graph: Graph, record: Target) -> Callable[[], object]:
    random = np.random.default_rng(1)
    params = {name: random.standard_normal(spec.shape).astype(np.float32) for name, spec in parameters(graph).items()}
    run = backend(record.backend).compile(graph, params, record.device)
    return timed(run, record.device, _operands(graph))


def _operands(graph: Graph) -> list[np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    types = [value.type for value in graph.inputs]
    return [
        random.standard_normal(each.sizes).astype(np.float16 if each.dtype.bytes == 2 else np.float32) for each in types
    ]
