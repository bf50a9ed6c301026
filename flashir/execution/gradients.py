"""gradients: how the parameters of a model move what it computes, by a target, and by the interpreter to compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.backends.protocols import Differentiable, Gradients
from flashir.errors import TargetError
from flashir.execution.compile import prepare
from flashir.ir import DType, Graph
from flashir.machine.device import available_device
from flashir.reference.interpreter import interpret

Array = npt.NDArray[Any]

TOLERANCE = {DType.F64: 1e-3, DType.F32: 1e-3, DType.F16: 1e-1, DType.BF16: 1e-1}
STEP = 1e-7  # so short that hardly a relu changes side on the way, and float64 still has eight digits of the slope
LEAST = 1e-4  # of the largest gradient; what is smaller is noise of float32, as where a parameter has no effect


def gradients(model: Graph, target: str, params: Mapping[str, Any]) -> Gradients:
    """The gradients of a model, its choices made, on a target.

    Raises:
        TargetError: the backend cannot differentiate, or the device is not at hand.
        SettingError, ParameterError: as `compile`.
    """
    ready = prepare(model, target, params)
    if not isinstance(ready.backend, Differentiable):
        raise TargetError(f"the backend {ready.backend.name!r} runs forward only, it has no gradients", where=target)
    return ready.backend.gradients(ready.lowered, ready.params, available_device(target))


class DirectionalDerivatives:
    """The float64 interpreter's gradients along one random direction of each parameter, by central differences.

    Where a gradient is off by an error e, its slope along a random direction d is off by <e, d>, which is about as
    large as e is: one direction tells a fault, however many elements there are.

    Args:
        model: at any level, choices made.
        params: by full name.
        arrays: the inputs.
        weights: w, in the shape of the result y; the slopes are those of sum(w y).
    """

    def __init__(self, model: Graph, params: Mapping[str, Array], arrays: Sequence[Array], weights: Array) -> None:
        self.model, self.arrays = model, arrays
        self.params = {name: np.asarray(array, np.float64) for name, array in params.items()}
        self.weights = np.asarray(weights, np.float64)
        self.random = np.random.default_rng(0)
        self.found: dict[str, tuple[Array, float]] = {}

    def along(self, name: str) -> tuple[Array, float]:
        """A direction d in the shape of that parameter, standard normal, and the slope <g, d>."""
        if name not in self.found:
            direction = self.random.standard_normal(self.params[name].shape)
            up, down = (self._run(name, by * direction) for by in (STEP, -STEP))
            self.found[name] = direction, float(np.sum(self.weights * (up - down))) / (2 * STEP)
        return self.found[name]

    def errors(self, got: Mapping[str, Array]) -> Iterator[tuple[str, float]]:
        """Each parameter, and how far its gradient is from the interpreter's, relative to the norm of it.

        A parameter that has no gradient in `got` has one of 0.
        """
        norms = {name: float(np.linalg.norm(got.get(name, 0.0))) for name in self.params}
        least = LEAST * max(norms.values(), default=0.0)
        for name in self.params:
            direction, slope = self.along(name)
            found = float(np.sum(direction * got.get(name, 0.0)))
            yield name, abs(found - slope) / (max(norms[name], abs(slope), least) or 1.0)

    def _run(self, name: str, change: Array) -> Array:
        return interpret(self.model, {**self.params, name: self.params[name] + change}, *self.arrays)[0]


def differences(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> Iterator[tuple[str, float]]:
    """Each parameter, and how far the two gradients of it are apart, relative to the largest element of `wanted`.

    A parameter that has no gradient has one of 0.
    """
    names = dict.fromkeys((*wanted, *got))
    sizes = {name: float(np.max(np.abs(wanted.get(name, 0.0)), initial=0.0)) for name in names}
    least = LEAST * max(sizes.values(), default=0.0)
    for name in names:
        apart = np.max(np.abs(np.subtract(got.get(name, 0.0), wanted.get(name, 0.0))), initial=0.0)
        yield name, float(apart) / (max(sizes[name], least) or 1.0)
