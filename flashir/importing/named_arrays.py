"""Tensors by name as NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashir.errors import ParameterError
from flashir.reference.arrays import Array, as_array


def is_tensor(value: Any) -> bool:
    """Whether a value has a shape."""
    return hasattr(value, "shape")


def named_arrays(tensors: Mapping[Any, Any], where: str) -> dict[str, Array]:
    """The tensors as arrays. Raises ParameterError that lists what is no tensor, or cannot be read."""
    arrays: dict[str, Array] = {}
    problems = []
    for name, tensor in tensors.items():
        try:
            if not is_tensor(tensor) or (array := as_array(tensor)).dtype.kind in "OUS":
                raise ValueError(f"must be a tensor, got a {type(tensor).__name__}")
            if str(name) in arrays:
                raise ValueError("is the name of two tensors")
            arrays[str(name)] = array
        except ValueError as error:
            problems.append(f"{name} {error}")
    if problems:
        raise ParameterError(problems, where=where, hint="import a state_dict of tensors in memory, and nothing else")
    return arrays
