"""Gradients of functions: numpy in, numpy out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from flashir.backends.protocols import Gradients
from flashir.ir import Graph
from flashir_jax.devices import device_of
from flashir_jax.functions import function
from flashir_jax.session import Array, exactly
from flashir_jax.types import enough_bits, in_float64


def gradients(graph: Graph, params: Mapping[str, Any], device: str = "cpu") -> Gradients:
    """How the parameters of a lowered graph move its one result. Raises TargetError, ParameterError."""
    apply, place, wide = function(graph), device_of(device), in_float64(graph)

    def back(own: Mapping[str, Any], weights: Any, *inputs: Any) -> Any:
        result, pull = jax.vjp(lambda each: apply(each, *inputs), own)
        return pull(weights.astype(result.dtype))[0]

    stacked, compiled = apply.stack(params), jax.jit(exactly(back))

    def run(arrays: Sequence[Array], weights: Array) -> dict[str, Array]:
        with enough_bits(wide), jax.default_device(place):
            found = apply.unstack(compiled(stacked, weights, *arrays))
        return {name: np.asarray(array, np.float32) for name, array in found.items()}

    return run
