"""Gradients of functions, from and to NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from flashir.backends.protocols import Array, Gradients
from flashir.ir import Graph
from flashir_jax.devices import device_of
from flashir_jax.functions import function
from flashir_jax.session import exactly
from flashir_jax.types import enough_bits, in_float64


def gradients(graph: Graph, params: Mapping[str, Any], device: str = "cpu") -> Gradients:
    """The gradient function of a lowered graph with one result. Raises TargetError, ParameterError."""
    apply, place, wide = function(graph), device_of(device), in_float64(graph)

    def back(own: Mapping[str, Any], weights: Any, *inputs: Any) -> Any:
        result, vjp = jax.vjp(lambda params: apply(params, *inputs), own)
        return vjp(weights.astype(result.dtype))[0]

    stacked, compiled = apply.stack(params), jax.jit(exactly(back))

    def run(arrays: Sequence[Array], weights: Array) -> dict[str, Array]:
        with enough_bits(wide), jax.default_device(place):
            slopes = apply.unstack(compiled(stacked, weights, *arrays))
        return {name: np.asarray(array, np.float32) for name, array in slopes.items()}

    return run
