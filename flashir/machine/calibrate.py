"""calibrate: fit a target record to this machine with a few micro-kernels, in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from math import inf, sqrt
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np

from flashir.backends.lowering import Lowering
from flashir.backends.registry import backend
from flashir.backends.warm_call import timed
from flashir.cost.estimate import estimate
from flashir.cost.target import RANGES, Target
from flashir.errors import TargetError
from flashir.files.atomic import check_file, check_room, in_folder
from flashir.ir import Graph
from flashir.ir.parameter_names import parameters
from flashir.machine.hardware import available_cores
from flashir.machine.microbenchmarks import MicroKernel, kernels
from flashir.machine.profile import in_cache, profile_path, with_numbers, write_profile
from flashir.machine.targets import target

ROUNDS, FEWEST = 25, 4
AGAIN = 2  # further rounds for kernels with a wide spread
WIDEST_SPREAD = 0.3
LONG_MS, SELDOM = 400.0, 8  # a kernel that takes longer, such as a product in an emulated type, runs in every 8th round
NEEDED = ("peak.f32", "bandwidth")  # a fit without these two is useless
FITTED = "fitted on this machine"
BUSY_S = 0.3
SWEEPS, HALVINGS = 4, 24
LEAST = 1e-9  # lower bound of the search for numbers that may be 0


@dataclass(frozen=True)
class Timing:
    """The measured time of a micro-kernel.

    Args:
        kernel: the name of the micro-kernel.
        tells: the number of the record that it determines.
        ms: the lower quartile of all rounds in milliseconds; other load on the machine can only increase times.
        spread: how far the fastest quarter of the rounds is apart, divided by the fastest. What slows down the others
            does not matter.
    """

    kernel: str
    tells: str
    ms: float
    spread: float


@dataclass(frozen=True)
class Calibration:
    """The result of `calibrate`.

    Args:
        before, after: the record as shipped, and with the fitted numbers.
        numbers: the fitted numbers by name. The others stay as shipped.
        timings: one per micro-kernel.
        share: the fraction of the processor that this process got.
        path: the file of the profile.
    """

    before: Target
    after: Target
    numbers: Mapping[str, float]
    timings: tuple[Timing, ...]
    share: float
    path: str

    def as_dict(self) -> dict[str, Any]:
        """The result as `--json` prints it."""
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


def calibrate(
    name: str, progress: Callable[[str, int, int], None] = lambda what, done, of: None, *, seconds: float = inf
) -> Calibration:
    """Measure the micro-kernels, fit the record, and store the profile for this device and these library versions.

    Args:
        name: a target whose device is available, such as `onnx:cpu`.
        progress: called with a label, the rounds done, and their total.
        seconds: after these no round starts but the first few; kernels with a wide spread are not measured again.

    Raises:
        TargetError: the device is not available, the machine is too busy, or the cost model cannot explain the
            timings; lists every timing.
        ArtefactError: the profile cannot be written.
    """
    record = target(name, calibrated=False)
    if not record.is_here or record.device not in backend(record.backend).devices():
        raise TargetError(f"{name} is not available, so it cannot be measured", hint="`flashir targets` lists what is")
    path = profile_path(name)
    with in_cache(), in_folder(path.parent):
        check_room(path.parent)  # before anything is measured
        check_file(path)
        return _calibrated(record, path, progress, time.perf_counter() + seconds)


def _calibrated(record: Target, path: Path, progress: Callable[[str, int, int], None], end: float) -> Calibration:
    """Measure until `end`, fit and store. Raises TargetError, ArtefactError."""
    share = _share_of_processor()
    graphs = lowered_kernels(record)
    timings = _timings(graphs, record, progress, end)
    unchanged = f"the profile is unchanged; measured:\n{_listed(timings, share)}"
    if busy := [t for t in timings if t.tells in NEEDED and t.spread > WIDEST_SPREAD]:
        raise TargetError(
            [f"{t.kernel}: the fastest quarter {t.spread:.0%} apart, more than {WIDEST_SPREAD:.0%}" for t in busy],
            where="the machine is too busy to calibrate",
            hint=f"stop what else runs, and try again; {unchanged}",
        )
    numbers = fit(record, graphs, {t.kernel: t.ms for t in timings if t.spread <= WIDEST_SPREAD})
    if lost := [t for t in timings if t.tells in NEEDED and t.tells not in numbers]:
        raise TargetError(
            [f"{t.kernel}: no {t.tells} of a device explains {t.ms:.3g} ms" for t in lost],
            where="the cost model cannot explain this machine",
            hint=f"stop what else runs, and try again; {unchanged}",
        )
    write_profile(record, numbers)
    return Calibration(record, with_numbers(record, numbers, FITTED), numbers, timings, share, str(path))


def lowered_kernels(record: Target) -> dict[str, Graph]:
    """Every micro-kernel of a target, lowered for it, by name."""
    return {kernel.name: Lowering.of(record.name).run(kernel.graph()) for kernel in kernels(record)}


def fit(record: Target, graphs: Mapping[str, Graph], measured_ms: Mapping[str, float]) -> dict[str, float]:
    """The numbers, by name, for which the cost model predicts the measured times.

    Each micro-kernel determines the number that it `tells`, given the others. Predictions are monotonic in every
    number, so bisection finds it. A few sweeps over all kernels let the numbers converge. A number that cannot explain
    its kernel is left out.
    """
    numbers: dict[str, float] = {}
    timed_kernels = [kernel for kernel in kernels(record) if kernel.name in measured_ms]
    for _ in range(SWEEPS):
        for kernel in timed_kernels:
            numbers.pop(kernel.tells, None)
            others = with_numbers(record, numbers, FITTED)
            solution = _solve(others, kernel, graphs[kernel.name], measured_ms[kernel.name])
            if solution is not None:
                numbers[kernel.tells] = solution
    return numbers


def _solve(record: Target, kernel: MicroKernel, graph: Graph, measured_ms: float) -> float | None:
    low, high = RANGES[kernel.tells.partition(".")[0]]
    low = max(low, LEAST)

    def predicted(value: float) -> float:
        return estimate(graph, with_numbers(record, {kernel.tells: value}, FITTED), {}).ms

    at_low, at_high = predicted(low), predicted(high)
    rising = at_high > at_low
    if not min(at_low, at_high) < measured_ms < max(at_low, at_high):
        return None
    for _ in range(HALVINGS):
        middle = sqrt(low * high)
        if (predicted(middle) > measured_ms) == rising:
            high = middle
        else:
            low = middle
    return sqrt(low * high)


def _share_of_processor() -> float:
    """The fraction of its cores that this process gets. A steady load slows all kernels alike, so spread misses it."""

    def busy(_: int) -> None:
        while time.perf_counter() < end:
            sha256(block)  # releases the GIL

    cores, block = available_cores(), bytes(2**20)
    start, used = time.perf_counter(), time.process_time()
    end = start + BUSY_S
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(busy, range(cores)))
    return min((time.process_time() - used) / (time.perf_counter() - start) / cores, 1.0)


def _runs(graphs: Mapping[str, Graph], record: Target) -> dict[str, Callable[[], object]]:
    """Every kernel as a function, called once. Without those of a narrow type that the target does not compute in."""
    runs: dict[str, Callable[[], object]] = {}
    for kernel in kernels(record):
        try:
            run = _run(graphs[kernel.name], record)
            run()
        except TargetError:
            if not kernel.may_be_refused:
                raise
            continue
        runs[kernel.name] = run
    return runs


def samples(
    graphs: Mapping[str, Graph],
    record: Target,
    rounds: int = ROUNDS,
    again: int = AGAIN,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
    end: float = inf,
) -> dict[MicroKernel, tuple[float, ...]]:
    """The milliseconds of every kernel in each round. Those with a wide spread are measured again if there is time."""
    runs = _runs(graphs, record)
    present = [kernel for kernel in kernels(record) if kernel.name in runs]
    times: dict[MicroKernel, tuple[float, ...]] = {}
    for what in ("measuring", *["measuring again"] * again):
        noisy = [
            kernel for kernel in present if kernel not in times or timing(kernel, times[kernel]).spread > WIDEST_SPREAD
        ]
        if not times or time.perf_counter() < end:
            times |= _rounds({kernel: runs[kernel.name] for kernel in noisy}, rounds, partial(progress, what), end)
    return times


def _rounds(
    runs: Mapping[MicroKernel, Callable[[], object]], rounds: int, progress: Callable[[int, int], None], end: float
) -> dict[MicroKernel, tuple[float, ...]]:
    """Run every kernel once per round, so that a temporary slowdown affects all of them; long ones in a few."""
    times: dict[MicroKernel, list[float]] = {kernel: [] for kernel in runs}
    for number in range(rounds if runs else 0):
        if number >= FEWEST and time.perf_counter() > end:
            break
        for kernel, run in runs.items():
            if len(times[kernel]) > 1 and number % SELDOM and times[kernel][0] > LONG_MS:
                continue
            start = time.perf_counter()
            run()
            times[kernel].append(1e3 * (time.perf_counter() - start))
        progress(number + 1, rounds)
    return {kernel: tuple(ms) for kernel, ms in times.items()}


def _timings(
    graphs: Mapping[str, Graph], record: Target, progress: Callable[[str, int, int], None], end: float = inf
) -> tuple[Timing, ...]:
    return tuple(timing(kernel, ms) for kernel, ms in samples(graphs, record, progress=progress, end=end).items())


def timing(kernel: MicroKernel, samples_ms: Sequence[float]) -> Timing:
    """The timing of a micro-kernel from two rounds or more."""
    lower, fastest = quantiles(samples_ms, n=4)[0], min(samples_ms)
    return Timing(kernel.name, kernel.tells, lower, lower / fastest - 1)


def _listed(timings: Iterable[Timing], share: float) -> str:
    """All timings, one line per kernel."""
    lines = [f"  {t.kernel:<12} {t.ms:>9.4g} ms, the fastest quarter {t.spread:.0%} apart" for t in timings]
    return "\n".join([*lines, f"  this process got {share:.0%} of the processor"])


def _run(graph: Graph, record: Target) -> Callable[[], object]:
    random = np.random.default_rng(1)
    params = {name: random.standard_normal(spec.shape).astype(np.float32) for name, spec in parameters(graph).items()}
    run = backend(record.backend).compile(graph, params, record.device)
    return timed(run, record.device, _operands(graph))


def _operands(graph: Graph) -> list[np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    return [random.standard_normal(value.type.sizes).astype(np.float32) for value in graph.inputs]
