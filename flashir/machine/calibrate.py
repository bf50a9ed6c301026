"""calibrate: fit a target's record to the machine at hand, by a few micro-kernels, in seconds."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from math import sqrt
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryFile
from typing import Any

import msgspec
import numpy as np

from flashir.backends.lowering import Lowering
from flashir.backends.registry import backend
from flashir.backends.warm_call import timed
from flashir.cost.estimate import estimate
from flashir.cost.target import RANGES, Target
from flashir.errors import TargetError
from flashir.files.atomic import atomic_write, writing
from flashir.ir import Graph
from flashir.ir.parameter_names import parameters
from flashir.machine.hardware import cores_at_hand
from flashir.machine.microbenchmarks import MicroKernel, kernels
from flashir.machine.profile import SCHEMA, Profile, in_cache, profile_key, profile_path, with_numbers
from flashir.machine.targets import target

ROUNDS = 25
AGAIN = 2  # times that kernels whose timings lie too far apart are measured anew
WIDEST_SPREAD = 0.3
NEEDED = ("peak.f32", "bandwidth")  # without these two, a fit says nothing of the machine
FITTED = "fitted on this machine"
BUSY_S = 0.3
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
        before, after: the record as shipped, and with the numbers fitted.
        numbers: those fitted, by name; what a kernel should tell and is not here stays as shipped.
        timings: one for each micro-kernel.
        share: of the processor, what this process got; less than all where other work ran beside it.
        path: where the profile was written.
    """

    before: Target
    after: Target
    numbers: Mapping[str, float]
    timings: tuple[Timing, ...]
    share: float
    path: str

    def as_dict(self) -> dict[str, Any]:
        """As the command line prints it with `--json`."""
        fitted = {
            t.tells: {"before": self.before.number(t.tells), "after": self.numbers.get(t.tells)} for t in self.timings
        }
        return {
            "target": self.after.name,
            "numbers": fitted,
            "not_told": [t.tells for t in self.timings if t.tells not in self.numbers],
            "timings": {t.kernel: {"ms": t.ms, "spread": t.spread} for t in self.timings},
            "share": self.share,
            "path": self.path,
        }


def calibrate(name: str, progress: Callable[[str, int, int], None] = lambda what, done, of: None) -> Calibration:
    """Measure, fit, and keep the profile for this processor and these versions of the libraries.

    Args:
        name: a target whose device is at hand, such as `onnx:cpu`.
        progress: told what is done: a word, how many rounds, of how many.

    Raises:
        TargetError: the device is not at hand, the machine is too busy to tell, or what was measured is that of no
            device; with every timing.
        ArtefactError: the profile cannot be written.
    """
    record = target(name, calibrated=False)
    if not record.is_here or record.device not in backend(record.backend).devices():
        raise TargetError(f"{name} is not at hand, so it cannot be measured", hint="`flashir targets` says what is")
    path = profile_path(name)
    _check_writable(path)
    share = _share_of_processor()
    graphs = {kernel.name: Lowering.of(name).run(kernel.graph()) for kernel in kernels(record.device)}
    timings = _timings(graphs, record, progress)
    every = f"the profile stays as it was; what was measured:\n{_listed(timings, share)}"
    if busy := [t for t in timings if t.spread > WIDEST_SPREAD]:
        raise TargetError(
            [f"{t.kernel}: quartiles {t.spread:.0%} apart, more than {WIDEST_SPREAD:.0%}" for t in busy],
            where="the machine is too busy to calibrate",
            hint=f"stop what else runs, and try again; {every}",
        )
    numbers = fit(record, graphs, {t.kernel: t.ms for t in timings})
    if lost := [t for t in timings if t.tells in NEEDED and t.tells not in numbers]:
        raise TargetError(
            [f"{t.kernel}: no {t.tells} of a device explains {t.ms:.3g} ms" for t in lost],
            where="the cost model cannot explain this machine",
            hint=f"stop what else runs, and try again; {every}",
        )
    profile = Profile(SCHEMA, datetime.now(UTC).date(), profile_key(record), numbers)
    text = msgspec.json.format(msgspec.json.encode(profile), indent=2)
    atomic_write(path, lambda file: file.write(text))
    return Calibration(record, with_numbers(record, numbers, FITTED), numbers, timings, share, str(path))


def fit(record: Target, graphs: Mapping[str, Graph], measured_ms: Mapping[str, float]) -> dict[str, float]:
    """The numbers, by name, with which the cost model predicts what was measured.

    Each micro-kernel decides the one number that it `tells`, given all the others: predictions grow, or fall, with
    every number, so halving the interval finds it. A few sweeps over all kernels settle how the numbers depend on
    one another. A number that cannot explain its kernel is left out: small sums say nothing of the cache where they
    are all one kernel.
    """
    numbers: dict[str, float] = {}
    told = [kernel for kernel in kernels(record.device) if kernel.name in measured_ms]
    for _ in range(SWEEPS):
        for kernel in told:
            numbers.pop(kernel.tells, None)
            others = with_numbers(record, numbers, FITTED)
            found = _solve(others, kernel, graphs[kernel.name], measured_ms[kernel.name])
            if found is not None:
                numbers[kernel.tells] = found
    return numbers


def _solve(record: Target, kernel: MicroKernel, graph: Graph, wanted: float) -> float | None:
    low, high = RANGES[kernel.tells.partition(".")[0]]
    low = max(low, LEAST)

    def predicted(value: float) -> float:
        return estimate(graph, with_numbers(record, {kernel.tells: value}, FITTED), {}).ms

    at_low, at_high = predicted(low), predicted(high)
    rising = at_high > at_low
    if not min(at_low, at_high) < wanted < max(at_low, at_high):
        return None
    for _ in range(HALVINGS):
        middle = sqrt(low * high)
        if (predicted(middle) > wanted) == rising:
            high = middle
        else:
            low = middle
    return sqrt(low * high)


def _check_writable(path: Path) -> None:
    """Before anything is measured. Raises ArtefactError."""
    with in_cache(), writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=path.parent).close()
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def _share_of_processor() -> float:
    """How much of its cores this process gets. Work that keeps them busy steadily slows all kernels alike, unseen."""

    def busy(_: int) -> None:
        while time.perf_counter() < end:
            sha256(block)  # which needs no lock of Python's

    cores, block = cores_at_hand(), bytes(2**20)
    start, used = time.perf_counter(), time.process_time()
    end = start + BUSY_S
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(busy, range(cores)))
    return min((time.process_time() - used) / (time.perf_counter() - start) / cores, 1.0)


def _timings(
    graphs: Mapping[str, Graph], record: Target, progress: Callable[[str, int, int], None]
) -> tuple[Timing, ...]:
    """Every kernel; those whose timings lie too far apart, a few times more."""
    runs = {name: _run(graph, record) for name, graph in graphs.items()}
    for run in runs.values():
        run()
    found: dict[str, Timing] = {}
    for what in ("measuring", *["measuring again"] * AGAIN):
        noisy = [k for k in kernels(record.device) if k.name not in found or found[k.name].spread > WIDEST_SPREAD]
        seconds = _rounds({kernel.name: runs[kernel.name] for kernel in noisy}, partial(progress, what))
        found |= {kernel.name: _timing(kernel, seconds[kernel.name]) for kernel in noisy}
    return tuple(found.values())


def _rounds(
    runs: Mapping[str, Callable[[], object]], progress: Callable[[int, int], None]
) -> Mapping[str, Sequence[float]]:
    """Every kernel once a round, so that what slows the machine down for a while hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS if runs else 0):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
        progress(number + 1, ROUNDS)
    return seconds


def _timing(kernel: MicroKernel, seconds: Sequence[float]) -> Timing:
    lower, _, upper = quantiles(seconds, n=4)
    return Timing(kernel.name, kernel.tells, 1e3 * lower, (upper - lower) / lower)


def _listed(timings: Iterable[Timing], share: float) -> str:
    """All that was measured, a line a kernel."""
    lines = [f"  {t.kernel:<12} {t.ms:>9.4g} ms, quartiles {t.spread:.0%} apart" for t in timings]
    return "\n".join([*lines, f"  this process got {share:.0%} of the processor"])


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
