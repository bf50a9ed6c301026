"""Models for user code: two pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np

from flashir.backends.lowering import Lowering
from flashir.backends.protocols import Params
from flashir.errors import InputError
from flashir.execution.native import Settled
from flashir.execution.signature import KINDS, Input, Signature, padding_problems, range_problems
from flashir.ir.op import ParamSpec
from flashir.ir.parameter_names import parameters
from flashir.models.parameters import init as draw
from flashir_jax.functions import function


def functions(model: Settled, params: Params | None) -> tuple[Callable[..., dict[str, Any]], Callable[..., Any]]:
    """`init(key)` and `apply(params, *inputs)`, see flashir.jax_function."""
    call = function(Lowering.of(model.target).run(model.planned))
    signature, specs = ArraySignature(model.model), parameters(model.model)

    def init(key: Any = 0) -> dict[str, Any]:
        """The existing parameters by full name, or new ones.

        Args:
            key: a key of `jax.random`, or an integer seed as in `flashir.init`.
        """
        if params is not None:
            return {name: jnp.asarray(array) for name, array in params.items()}
        if isinstance(key, (int, np.integer)):
            return {name: jnp.asarray(array) for name, array in draw(model.model, int(key)).items()}
        return drawn(specs, key)

    def apply(params: Mapping[str, Any], *inputs: Any, **named: Any) -> Any:
        """The result of the model, or a tuple in the order of `return` if it has several.

        Args:
            params: parameters by full name, as returned by `init`.
            inputs: arrays in the order of the model's inputs.
            named: inputs by name.

        Raises:
            ParameterError: a parameter is missing or misshapen.
            InputError: inputs are missing, or have a wrong dtype or shape; if values are known, also token ids out of
                range, and rows of a mask without a token.
        """
        return call(params, *signature.checked(signature.collected(inputs, named)))

    return init, apply


def drawn(specs: Mapping[str, ParamSpec], key: Any, dtype: Any = jnp.float32) -> dict[str, Any]:
    """New parameters, each from the key and its name, so that a layer has the same ones in any model."""

    def one(name: str, spec: ParamSpec) -> Any:
        mean, std = spec.start()
        if not std:
            return jnp.full(spec.shape, mean, dtype)
        own = jax.random.fold_in(key, crc32(name.encode()))
        return mean + std * jax.random.normal(own, spec.shape, dtype)

    return {name: one(name, spec) for name, spec in specs.items()}


class ArraySignature(Signature):
    """The inputs of a graph as JAX or NumPy arrays, traced or not."""

    def checked(self, arrays: Sequence[Any]) -> list[Any]:
        """The arrays. Raises InputError that lists every input of a wrong type or shape."""
        problems = [text for x, wanted in zip(arrays, self.inputs) for text in _types(x, wanted)]
        problems = problems or self.shape_problems([x.shape for x in arrays])
        problems = problems or [text for x, wanted in zip(arrays, self.inputs) for text in _values(x, wanted)]
        if problems:
            raise InputError(problems)
        return list(arrays)


def _types(x: Any, wanted: Input) -> list[str]:
    if not isinstance(x, (jax.Array, np.ndarray)):
        return [f"{wanted.name} must be an array, got a {type(x).__name__}"]
    kinds = {"floats": jnp.floating, "bools": jnp.bool_, "whole": jnp.integer}
    if not jnp.issubdtype(x.dtype, kinds[wanted.kind]):
        return [f"{wanted.name} must hold {KINDS[wanted.kind]}, got {x.dtype}"]
    return []


def _values(x: Any, wanted: Input) -> list[str]:
    """Problems of the values, if they can be read without cost: not while tracing, nor on an accelerator."""
    if isinstance(x, jax.core.Tracer) or not x.size:
        return []
    if isinstance(x, jax.Array) and any(device.platform != "cpu" for device in x.devices()):
        return []
    if wanted.vocabulary:
        return range_problems(wanted, int(np.min(x)), int(np.max(x)))
    if wanted.kind == "bools" and x.ndim == 2:
        return padding_problems(wanted, np.any(np.asarray(x), -1).tolist())
    return []
