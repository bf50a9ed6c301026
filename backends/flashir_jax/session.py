"""Sessions: functions on a device, from and to NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from flashir.backends.protocols import Array
from flashir.backends.results import check_count, single
from flashir.errors import TargetError
from flashir.ir import Graph
from flashir_jax.devices import device_of
from flashir_jax.forks import check_fork
from flashir_jax.functions import function
from flashir_jax.layout import Stack
from flashir_jax.types import element_type, enough_bits, in_float64


def exactly(call: Callable[..., Any]) -> Callable[..., Any]:
    """The function with full float32 precision in products, which accelerators reduce by default."""

    def exact(params: Mapping[str, Any], *inputs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return call(params, *inputs)

    return exact


class Session:
    """A function of (stacked parameters, *inputs) with its parameters on a device.

    Arrays in the order of the inputs -> its single result. It is compiled once per input shape.

    Args:
        call: the function to trace.
        graph: a graph with the inputs of the function.
        parameters: the stacked parameters that `call` takes.
        arrays: the stacked parameter arrays.
        device: the device to run on.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        graph: Graph,
        parameters: Mapping[str, Stack],
        arrays: Mapping[str, Any],
        device: str = "cpu",
    ) -> None:
        self._device = device_of(device)
        self._inputs = graph.inputs
        self._wide = in_float64(graph)
        with enough_bits(self._wide):
            self._types = [element_type(value.type.dtype) for value in graph.inputs]

        def run(params: Mapping[str, Any], state: tuple[Any, ...], *feed: Any) -> Any:
            return call(params, *feed, *state)

        self._call = jax.jit(run, donate_argnums=1)
        with enough_bits(self._wide):
            self._params = {
                name: jax.device_put(np.asarray(array, element_type(parameters[name].dtype)), self._device)
                for name, array in arrays.items()
            }

    def __call__(self, arrays: Sequence[Array]) -> Array:
        """Run once. Raises the errors of `outputs`, and TargetError if the model has several results."""
        return single(self.outputs(arrays), "jax")

    def outputs(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Run once, and return every result.

        Raises:
            InputError: the number of inputs or their shapes do not fit.
            TargetError: JAX fails, for example when memory runs out, or this process was forked.
        """
        return tuple(map(np.asarray, self._run(arrays, ())))

    def continued(self, arrays: Sequence[Array], state: Sequence[Any]) -> tuple[Array, Sequence[Any]]:
        """Run once with device state as the last inputs, which is donated. The results after the first stay there.

        Without state the last inputs are zeros. Raises the errors of a call.
        """
        first, *others = self._run(arrays, state or self._zeros(len(arrays), len(arrays[0])))
        return np.asarray(first), others

    def resident(self, arrays: Sequence[Array]) -> Callable[[], object]:
        """A function that runs on these inputs, moved to the device beforehand, and waits for the result.

        Raises the errors of a call.
        """
        with enough_bits(self._wide):
            feed = jax.device_put(self._fed(arrays), self._device)
        return lambda: self._called(feed, (), wait=True)

    def _zeros(self, first: int, rows: int) -> list[Any]:
        """Zeros for the inputs from this one on. Their only symbolic size is the number of rows."""
        shapes = [[n if isinstance(n, int) else rows for n in value.type.shape] for value in self._inputs[first:]]
        with enough_bits(self._wide), jax.default_device(self._device):
            return [jax.numpy.zeros(shape, dtype) for shape, dtype in zip(shapes, self._types[first:], strict=True)]

    def _run(self, arrays: Sequence[Array], state: Sequence[Any]) -> Sequence[Any]:
        results = self._called(self._fed(arrays, len(state)), state)
        return results if isinstance(results, (tuple, list)) else (results,)  # a single one comes by itself

    def _fed(self, arrays: Sequence[Array], state: int = 0) -> list[Array]:
        """The first inputs in their dtypes; the last `kept` ones are device state."""
        check_count([value.name for value in self._inputs], len(arrays) + state, "jax")
        return [np.asarray(x, dtype) for x, dtype in zip(arrays, self._types)]

    def _called(self, feed: Sequence[Any], state: Sequence[Any], *, wait: bool = False) -> Any:
        check_fork()
        try:
            with enough_bits(self._wide), jax.default_device(self._device):
                results = self._call(self._params, tuple(state), *feed)
                return jax.block_until_ready(results) if wait else results
        except jax.errors.JaxRuntimeError as error:
            raise TargetError(f"JAX fails: {error}", where="jax") from error


def compiled(graph: Graph, params: Mapping[str, Any], device: str = "cpu") -> Session:
    """Compile a lowered graph with its parameters by full name."""
    apply = function(graph)
    return Session(exactly(apply), graph, apply.parameters, apply.stack(params), device)
