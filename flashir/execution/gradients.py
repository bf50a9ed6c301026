"""gradients: the gradients of a model on a target, and directional derivatives of the interpreter to check them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flashir.backends.protocols import Differentiable, Gradients
from flashir.errors import TargetError
from flashir.execution.prepare import prepare
from flashir.ir import DType, Graph
from flashir.machine.device import available_device
from flashir.reference.arrays import Array
from flashir.reference.interpreter import interpret
from flashir.transforms.select_results import first_result

TOLERANCE = {DType.F64: 1e-3, DType.F32: 1e-3, DType.F16: 1e-1, DType.BF16: 1e-1}
STEP = 1e-7  # small enough that few relus change sign, and large enough for eight digits of the slope in float64
LEAST = 1e-4  # gradients below this fraction of the largest are float32 noise, such as those of unused parameters


def gradients(model: Graph, target: str, params: Mapping[str, Any]) -> Gradients:
    """The gradient function of a settled model on a target, that of the first of its results.

    Raises:
        TargetError: the backend cannot differentiate, or the device is not available.
        SettingError, ParameterError: as for `compile`.
    """
    prepared = prepare(model, target, params)
    if not isinstance(prepared.backend, Differentiable):
        raise TargetError(f"the backend {prepared.backend.name!r} runs forward only, it has no gradients", where=target)
    return prepared.backend.gradients(first_result(prepared.lowered), prepared.params, available_device(target))


class DirectionalDerivatives:
    """Derivatives of the float64 interpreter along one random direction per parameter, by central differences.

    If a gradient has an error e, its derivative along a random direction d has the error <e, d>, which is about as
    large as e. So one direction per parameter detects a wrong gradient.

    Args:
        model: a settled model at any level of lowering.
        params: parameters by full name.
        arrays: the inputs.
        weights: w in the shape of the result y; the derivatives are those of sum(w y).
    """

    def __init__(self, model: Graph, params: Mapping[str, Array], arrays: Sequence[Array], weights: Array) -> None:
        self.model, self.arrays = model, arrays
        self.params = {name: np.asarray(array, np.float64) for name, array in params.items()}
        self.weights = np.asarray(weights, np.float64)
        self.random = np.random.default_rng(0)
        self._slopes: dict[str, tuple[Array, float]] = {}

    def along(self, name: str) -> tuple[Array, float]:
        """A standard normal direction d in the shape of the parameter, and the derivative <g, d>."""
        if name not in self._slopes:
            direction = self.random.standard_normal(self.params[name].shape)
            up, down = (self._run(name, by * direction) for by in (STEP, -STEP))
            self._slopes[name] = direction, float(np.sum(self.weights * (up - down))) / (2 * STEP)
        return self._slopes[name]

    def errors(self, got: Mapping[str, Array]) -> Iterator[tuple[str, float]]:
        """Yield each parameter and the error of its gradient, relative to the norm of the gradient.

        A parameter without a gradient in `got` has gradient 0.
        """
        norms = {name: float(np.linalg.norm(got.get(name, 0.0))) for name in self.params}
        least = LEAST * max(norms.values(), default=0.0)
        for name in self.params:
            direction, slope = self.along(name)
            actual = float(np.sum(direction * got.get(name, 0.0)))
            yield name, abs(actual - slope) / (max(norms[name], abs(slope), least) or 1.0)

    def _run(self, name: str, change: Array) -> Array:
        return interpret(self.model, {**self.params, name: self.params[name] + change}, *self.arrays)[0]


def differences(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> Iterator[tuple[str, float]]:
    """Yield each parameter and the error of its gradient, relative to the largest element of `wanted`.

    A parameter without a gradient has gradient 0.
    """
    names = dict.fromkeys((*wanted, *got))
    sizes = {name: float(np.max(np.abs(wanted.get(name, 0.0)), initial=0.0)) for name in names}
    least = LEAST * max(sizes.values(), default=0.0)
    for name in names:
        error = np.max(np.abs(np.subtract(got.get(name, 0.0), wanted.get(name, 0.0))), initial=0.0)
        yield name, float(error) / (max(sizes[name], least) or 1.0)
