"""Measure candidates on the device: compile, check, and time them.

A slow model is measured in parts (see `split_layers`): its layers separately, and the model without its layers. All
candidates share the latter, so it is timed less often. A training step is measured whole. A candidate is compiled on
demand, and its own parts are freed when it is closed.
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
from flashir.ir.settings import Settings
from flashir.models.parameters import init, unit
from flashir.planning.candidates import Candidate
from flashir.planning.extent import Extent
from flashir.planning.plan import compute_type
from flashir.planning.workload import Workload
from flashir.reference.compare import TOLERANCE, relative_error, sample_inputs, tokens_to_compare
from flashir.reference.interpreter import interpret
from flashir.transforms.settle_choices import choosers, same_function, settle

SHARED_RUNS = 5
"""The time of a shared part is the median of this many latest times."""
SHARED_EVERY = 4
"""After that, a shared part is timed once per this many samples."""
SHORTEST_MS = 5.0
"""A sample is the mean of enough runs to take this long in total, because clocks and schedulers are coarse."""
WHOLE_MS = 100.0
"""Models with a smaller predicted time are measured whole, because the overhead of a run would dominate their parts."""
COMPARED = 1 << 20
"""How many values of a result, and of all gradients, are compared between candidates of the same chunk."""
SAME = "the same function computed with other settings"


class Measurer(Protocol):
    """Opens candidates, times them one sample at a time, and closes them."""

    def open(self, candidate: Candidate) -> None:
        """Compile, warm up and check a candidate. Any exception disqualifies the candidate."""
        ...

    def sample(self, candidate: Candidate) -> float:
        """Milliseconds of one run of an open candidate. Any exception disqualifies the candidate."""
        ...

    def close(self, candidate: Candidate) -> None:
        """Free a candidate. Does nothing if it is not open."""
        ...


@dataclass
class _Piece:
    """A compiled part."""

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
    """A compiled part that all candidates share."""

    samples: int = 0
    latest: list[float] = field(default_factory=list)

    def sample(self) -> float:
        """Milliseconds of one run: the median of the latest times."""
        if len(self.latest) < SHARED_RUNS or self.samples % SHARED_EVERY == 0:
            self.latest = [*self.latest[1 - SHARED_RUNS :], super().sample()]
        self.samples += 1
        return median(self.latest)


class DeviceMeasurer:
    """Measures forward runs or training steps of the candidates of one model on an available device.

    Args:
        graph: the model with its choices open.
        target: the name of the target.
        backend: the backend of the target.
        device: the device of the target.
        workload: the batch and length to measure.
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
        """Compile each part, warm it up, and check its results.

        The first candidate of each chunk is compared with the float64 interpreter, on an input just longer than a chunk
        or tile. The following ones compute the same function and are compared with the first at the full length. The
        gradients of a training step are compared only with those of the first.

        Raises:
            ArtefactError: the results differ.
            FlashirError, MemoryError, or any exception of the framework: it cannot be compiled or run.
        """
        settings = candidate.settings
        function = same_function(self.graph, settings)
        if self._in_parts is None:  # the same for all candidates, so they compare; parts have no loss
            self._in_parts = candidate.predicted_ms >= WHOLE_MS and not self.workload.training
        model = settle(self.graph, settings)
        split = parts(model) if self._in_parts else (Part(model, 1.0),)
        self._open[settings] = [(self._piece(part, function, index), part.weight) for index, part in enumerate(split)]

    def sample(self, candidate: Candidate) -> float:
        """Milliseconds of one run of the whole model."""
        pieces = self._open[candidate.settings]
        return sum(weight * piece.sample() for piece, weight in pieces)

    def close(self, candidate: Candidate) -> None:
        """Free the candidate's own parts at once, because the next candidate may need the memory."""
        if self._open.pop(candidate.settings, None) is not None:
            gc.collect()  # compiled functions of frameworks contain reference cycles

    def _piece(self, part: Part, function: Settings, index: int) -> _Piece:
        if any(True for _ in choosers(part.graph)):
            return _Piece(*self._compile(part.graph, function, index))
        text = dumps(part.graph)  # the same for every candidate
        if text not in self._shared:
            self._shared[text] = _SharedPiece(*self._compile(part.graph, Settings(), index))
        return self._shared[text]

    def _compile(self, graph: Graph, function: Settings, index: int) -> tuple[Callable[[], object], int]:
        """Compile and check a part. Returns a function to time, and the number of calls per sample."""
        params = _params(graph)
        lowered = Lowering.of(self.target, check=False).run(graph)
        reference = self._results.get((function, index))
        inputs = sample_inputs(graph, self._sizes)
        if reference is None or not self.workload.training:
            run = self.backend.compile(lowered, params, self.device)
        if reference is None:
            _check(graph, params, run)
        if self.workload.training:
            step = training_step(graph, lowered, params, self.target, inputs)
            run = step.as_run
        results = results_of(run, inputs)  # also warms up
        result = np.concatenate([_thinned(array, COMPARED // len(results)) for array in results])
        if reference is None:
            _finite(result)
            self._results[function, index] = result
        else:
            _agree(result, reference, graph, SAME)
        if self.workload.training:
            self._compare_gradients(step, graph, function)
        call = timed(run, self.device, inputs)
        start = perf_counter()
        call()
        once_ms = 1e3 * (perf_counter() - start)
        return call, max(1, ceil(SHORTEST_MS / max(once_ms, 1e-3)))

    def _compare_gradients(self, step: TrainingStep, graph: Graph, function: Settings) -> None:
        """Compare the gradients of a step with those of the first candidate of the chunk. Raises ArtefactError."""
        full = step.gradients()
        got = {name: _thinned(array, COMPARED // len(full)) for name, array in full.items()}
        limit = TOLERANCE_OF_GRADIENTS[compute_type(graph)]
        for name, error in differences(got, self._gradients.setdefault(function, got)):
            if not error <= limit:
                raise ArtefactError(f"its gradient of {name} differs from {SAME} by {error:.1e}, more than {limit:.0e}")


def _params(graph: Graph) -> dict[str, npt.NDArray[np.float32]]:
    """Parameters of unit scale. In narrow dtypes their rounding errors would be too large, so `init` is used there."""
    return unit(graph) if compute_type(graph) in (DType.F32, DType.F64) else init(graph)


def _check(graph: Graph, params: Any, run: Run) -> None:
    """Compare with the interpreter. Raises ArtefactError."""
    length = Extent.of(graph).tokens(tokens_to_compare(graph))
    arrays = sample_inputs(graph, Workload(1, length).sizes(graph))
    for got, wanted in zip(results_of(run, arrays), interpret(graph, params, *arrays), strict=True):
        _agree(got, wanted, graph, f"the interpreter on {length} tokens")


def _agree(got: npt.NDArray[Any], wanted: npt.NDArray[Any], graph: Graph, what: str) -> None:
    error, limit = relative_error(got, wanted), TOLERANCE[compute_type(graph)]
    if not error <= limit:
        raise ArtefactError(f"differs from {what} by {error:.1e}, more than {limit:.0e}")


def _finite(result: npt.NDArray[Any]) -> None:
    if not np.isfinite(result).all():
        raise ArtefactError("computes values that are not finite")


def _thinned(result: npt.NDArray[Any], most: int) -> npt.NDArray[Any]:
    """At most `most` values from all over a result."""
    flat = np.asarray(result).reshape(-1)
    step = -(-flat.size // most) | 1  # odd, to avoid sampling a single column
    return np.array(flat[::step])
