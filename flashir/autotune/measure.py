"""Measures candidates for real: compiled for the device, checked, timed.

A model that takes long to run is measured in parts (see `parts`): its layers by themselves, and the model without
layers, which all candidates share and which is timed less often. A training step is measured whole. Nothing is compiled
before it is asked for, and what a candidate has of its own is dropped when it is closed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from statistics import median
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from flashir.autotune.split_layers import Part, parts
from flashir.backends.lowering import Lowering
from flashir.backends.protocols import Backend, Run
from flashir.backends.results import results_of
from flashir.backends.warm_call import timed
from flashir.errors import ArtefactError
from flashir.execution.gradients import TOLERANCE as TOLERANCE_OF_GRADIENTS
from flashir.execution.gradients import differences
from flashir.execution.timed_step import TrainingStep, training_step
from flashir.ir import DType, Graph, dumps
from flashir.models.parameters import init, unit
from flashir.planning.candidates import Candidate
from flashir.planning.extent import Extent
from flashir.planning.plan import compute_type
from flashir.planning.workload import Workload
from flashir.reference.compare import TOLERANCE, enough, relative_error, sample_inputs
from flashir.reference.interpreter import interpret
from flashir.transforms.settle_choices import Settings, choosers, same_function, settle

SHARED_RUNS = 5
"""The latest times of a part that all candidates have in common, whose median counts for all of them."""
SHARED_EVERY = 4
"""Such a part is timed once for so many samples, when it has been timed often enough."""
SHORTEST_MS = 5.0
"""A sample is the mean of so many runs that they take this long together: clocks and schedulers are coarse."""
WHOLE_MS = 100.0
"""Models that are predicted to take less are measured whole: what it costs to start a run tells in their parts."""
COMPARED = 1 << 20
"""Numbers of a result, and of all gradients, that are kept to compare with others of the same chunk."""
SAME = "the same function computed another way"


class Measurer(Protocol):
    """Opens candidates, times them one sample at a time, and closes them."""

    def open(self, candidate: Candidate) -> None:
        """Compile, warm up and check a candidate. Whatever it raises disqualifies the candidate."""
        ...

    def sample(self, candidate: Candidate) -> float:
        """Milliseconds of one run of an open candidate. Whatever it raises disqualifies the candidate."""
        ...

    def close(self, candidate: Candidate) -> None:
        """Let go of a candidate; one that is not open is no error."""
        ...


@dataclass
class _Piece:
    """A part that is compiled."""

    call: Callable[[], object]
    repeats: int = 1

    def sample(self) -> float:
        """Milliseconds of one run."""
        start = perf_counter()
        for _ in range(self.repeats):
            self.call()
        return 1e3 * (perf_counter() - start) / self.repeats


@dataclass
class _SharedPiece(_Piece):
    """A part that all candidates have in common."""

    asked: int = 0
    latest: list[float] = field(default_factory=list)

    def sample(self) -> float:
        """Milliseconds of one run, the median of the latest."""
        if len(self.latest) < SHARED_RUNS or self.asked % SHARED_EVERY == 0:
            self.latest = [*self.latest[1 - SHARED_RUNS :], super().sample()]
        self.asked += 1
        return median(self.latest)


class DeviceMeasurer:
    """Measures the candidates of one model on a device at hand: runs forward, or training steps.

    Args:
        graph: the model with its choices open.
        target: its name.
        backend: the target's.
        device: the target's, at hand.
        workload: the batch and length to measure at.
    """

    def __init__(self, graph: Graph, target: str, backend: Backend, device: str, workload: Workload) -> None:
        self.graph = graph
        self.target = target
        self.backend = backend
        self.device = device
        self.workload = workload
        self._sizes = workload.sizes(graph)
        self._in_parts: bool | None = None
        self._open: dict[Settings, list[tuple[_Piece, float]]] = {}
        self._shared: dict[str, _SharedPiece] = {}
        self._results: dict[tuple[Settings, int], npt.NDArray[Any]] = {}
        self._gradients: dict[Settings, Mapping[str, npt.NDArray[Any]]] = {}

    def open(self, candidate: Candidate) -> None:
        """Compile each part, warm it up, and compare what it computes.

        The first candidate of each chunk is compared with the float64 interpreter, on an input just longer than a
        chunk or tile; those that follow are compared with it at the full length, as they must compute the same. So are
        the gradients of a training step; those of the first are not compared with the interpreter's.

        Raises:
            ArtefactError: it computes something else.
            FlashirError, MemoryError, and whatever the framework has: it cannot be compiled or run.
        """
        settings = candidate.settings
        function = same_function(self.graph, settings)
        if self._in_parts is None:  # the first decides for all, so that they compare; parts have no loss
            self._in_parts = candidate.predicted_ms >= WHOLE_MS and not self.workload.training
        model = settle(self.graph, settings)
        split = parts(model) if self._in_parts else (Part(model, 1.0),)
        self._open[settings] = [(self._piece(part, function, index), part.weight) for index, part in enumerate(split)]

    def sample(self, candidate: Candidate) -> float:
        """Milliseconds of one run of the whole model."""
        pieces = self._open[candidate.settings]
        return sum(weight * piece.sample() for piece, weight in pieces)

    def close(self, candidate: Candidate) -> None:
        """Let go of what the candidate has of its own, at once: the next may need the memory."""
        if self._open.pop(candidate.settings, None) is not None:
            gc.collect()  # what frameworks compile refers to itself

    def _piece(self, part: Part, function: Settings, index: int) -> _Piece:
        if any(True for _ in choosers(part.graph)):
            return _Piece(*self._compile(part.graph, function, index))
        text = dumps(part.graph)  # the same for every candidate
        if text not in self._shared:
            self._shared[text] = _SharedPiece(*self._compile(part.graph, Settings(), index))
        return self._shared[text]

    def _compile(self, graph: Graph, function: Settings, index: int) -> tuple[Callable[[], object], int]:
        """A part to call, which was checked, and how many calls make a sample."""
        params = _params(graph)
        lowered = Lowering.of(self.target, check=False).run(graph)
        seen = self._results.get((function, index))
        inputs = sample_inputs(graph, self._sizes)
        if seen is None or not self.workload.training:
            run = self.backend.compile(lowered, params, self.device)
        if seen is None:
            _check(graph, params, run)
        if self.workload.training:
            step = training_step(graph, lowered, params, self.target, inputs)
            run = step.as_run
        every = results_of(run, inputs)  # warms up, too
        result = np.concatenate([_thinned(array, COMPARED // len(every)) for array in every])
        if seen is None:
            _finite(result)
            self._results[function, index] = result
        else:
            _agree(result, seen, graph, SAME)
        if self.workload.training:
            self._compare_gradients(step, graph, function)
        call = timed(run, self.device, inputs)
        start = perf_counter()
        call()
        once_ms = 1e3 * (perf_counter() - start)
        return call, max(1, ceil(SHORTEST_MS / max(once_ms, 1e-3)))

    def _compare_gradients(self, step: TrainingStep, graph: Graph, function: Settings) -> None:
        """Those of the step just made with those of the first candidate of the chunk. Raises ArtefactError."""
        found = step.gradients()
        got = {name: _thinned(array, COMPARED // len(found)) for name, array in found.items()}
        limit = TOLERANCE_OF_GRADIENTS[compute_type(graph)]
        for name, error in differences(got, self._gradients.setdefault(function, got)):
            if not error <= limit:
                raise ArtefactError(f"its gradient of {name} differs from {SAME} by {error:.1e}, more than {limit:.0e}")


def _params(graph: Graph) -> dict[str, npt.NDArray[np.float32]]:
    """Such as every term of the model tells by. In narrow types rounding would tell too, so those of a fresh model."""
    return unit(graph) if compute_type(graph) in (DType.F32, DType.F64) else init(graph)


def _check(graph: Graph, params: Any, run: Run) -> None:
    """Compare with the interpreter. Raises ArtefactError."""
    length = Extent.of(graph).tokens(enough(graph))
    arrays = sample_inputs(graph, Workload(1, length).sizes(graph))
    for got, wanted in zip(results_of(run, arrays), interpret(graph, params, *arrays), strict=True):
        _agree(got, wanted, graph, f"the interpreter on {length} tokens")


def _agree(got: npt.NDArray[Any], wanted: npt.NDArray[Any], graph: Graph, what: str) -> None:
    error, limit = relative_error(got, wanted), TOLERANCE[compute_type(graph)]
    if not error <= limit:
        raise ArtefactError(f"differs from {what} by {error:.1e}, more than {limit:.0e}")


def _finite(result: npt.NDArray[Any]) -> None:
    if not np.isfinite(result).all():
        raise ArtefactError("computes numbers that are not finite")


def _thinned(result: npt.NDArray[Any], most: int) -> npt.NDArray[Any]:
    """Numbers from all over a result, at most so many."""
    flat = np.asarray(result).reshape(-1)
    step = -(-flat.size // most) | 1  # odd, so that it does not walk down one column
    return np.array(flat[::step])
