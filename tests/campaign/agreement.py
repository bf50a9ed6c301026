"""Compare results with the float64 interpreter, within what rounding explains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.ir import DType, Graph
from flashir.models.parameters import unit
from flashir.planning.workload import Workload
from flashir.reference.compare import relative_error, sample_inputs
from flashir.reference.interpreter import interpret, largest
from tests.campaign.compose import Drawn
from tests.campaign.verdict import WrongError

Array = npt.NDArray[Any]
ROUNDING = {DType.F64: 2.0**-24, DType.F32: 2.0**-24, DType.BF16: 2.0**-8, DType.F16: 2.0**-11}
LEAST = {DType.F64: 1e-4, DType.F32: 1e-4, DType.BF16: 4e-2, DType.F16: 2e-2}
"""Errors that are always allowed, relative to the largest result."""
SQUARABLE = 1e15
"""Numbers whose squares, and sums of them, are in the range of float32. A norm at the end hides larger ones."""
GROWTH = 100.0
"""The allowed multiple of the change by rounding the parameters."""


class Reference:
    """The results of a model in float64."""

    def __init__(self, drawn: Drawn) -> None:
        self.drawn = drawn
        self.params = unit(drawn.graph, drawn.seed)
        self.arrays = inputs_of(drawn.graph, drawn.batch, drawn.length, drawn.seed)
        self.wanted = interpret(drawn.graph, self.params, *self.arrays)

    @property
    def usable(self) -> bool:
        """Whether the results are in the range of the compute dtype, and the numbers on the way in that of float32."""
        most = 6e4 if self.drawn.dtype is DType.F16 else SQUARABLE
        floats = [array for array in self.wanted if array.dtype.kind == "f"]
        if not all(np.all(np.abs(array) < most) for array in floats):
            return False
        return largest(self.drawn.graph, self.params, *self.arrays) < SQUARABLE

    def compare(self, got: Sequence[Array], what: str) -> float:
        """The largest error. Raises WrongError if rounding does not explain it."""
        if len(got) != len(self.wanted):
            raise WrongError(f"{what}: another number of results", f"{len(got)}, wanted {len(self.wanted)}")
        worst = 0.0
        for number, (one, wanted) in enumerate(zip(got, self.wanted, strict=True)):
            worst = max(worst, self._error(number, np.asarray(one), wanted, what))
        return worst

    def _error(self, number: int, got: Array, wanted: Array, what: str) -> float:
        if got.shape != wanted.shape:
            raise WrongError(f"{what}: a result of another shape", f"{got.shape}, wanted {wanted.shape}")
        if wanted.dtype.kind != "f":
            if not np.array_equal(got, wanted):
                raise WrongError(f"{what}: whole numbers differ")
            return 0.0
        error = relative_error(got.astype(np.float64), wanted)
        if not error <= LEAST[self.drawn.dtype] and not error <= (allowed := self.allowed(number)):
            kind = "not finite" if not np.isfinite(got).all() else "wrong numbers"
            said = f"result {number} is {error:.1e} off, {allowed:.1e} allowed"
            raise WrongError(f"{what}: {kind} in {self.drawn.dtype}", said)
        return error

    def allowed(self, number: int) -> float:
        """The error of a result that rounding explains, relative to its largest element."""
        return max(LEAST[self.drawn.dtype], GROWTH * self._sensitivity()[number])

    def _sensitivity(self) -> list[float]:
        """The change of each result if every parameter and input changes by its rounding."""
        random, by = np.random.default_rng(0), ROUNDING[self.drawn.dtype]
        worst = [0.0] * len(self.wanted)

        def moved(array: Array) -> Array:
            floats = np.asarray(array, np.float64)
            return floats * (1 + by * random.choice([-1.0, 1.0], floats.shape))

        for _ in range(3):
            params = {name: moved(array) for name, array in self.params.items()}
            arrays = [moved(array) if array.dtype.kind == "f" else array for array in self.arrays]
            results = interpret(self.drawn.graph, params, *arrays)
            errors = [relative_error(a, b) if b.dtype.kind == "f" else 0.0 for a, b in zip(results, self.wanted)]
            worst = [max(pair) for pair in zip(worst, errors)]
        return worst


def inputs_of(graph: Graph, batch: int, length: int, seed: int) -> list[Array]:
    """Inputs with `batch` rows of `length` tokens; both may be 0."""
    made = sample_inputs(graph, Workload(max(1, batch), max(1, length)).sizes(graph), seed)
    cut = []
    for value, array in zip(graph.inputs, made, strict=True):
        for axis, size in enumerate(value.type.shape):
            if not isinstance(size, int):
                array = array[(slice(None),) * axis + (slice(batch if axis == 0 else length),)]
        cut.append(array)
    return cut


def several(result: Any) -> tuple[Array, ...]:
    """The results of a run as a tuple."""
    return tuple(result) if isinstance(result, tuple) else (np.asarray(result),)
