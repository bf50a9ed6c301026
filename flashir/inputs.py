"""Inputs of a run, checked before any work starts; every backend is given what passed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.arrays import as_array
from flashir.errors import InputError, IRError, counted
from flashir.interpreter import bind_sizes
from flashir.ir import DType, Graph, TensorType, Value
from flashir.rewrite import rewrite

Array = npt.NDArray[Any]
INT32 = np.iinfo(np.int32)


def collect(model: Graph, given: Sequence[Any], named: Mapping[str, Any]) -> list[Array]:
    """The inputs in the order of the model, given by position or by name.

    Raises:
        InputError: every input that is missing, given twice, or unknown.
    """
    names = [value.name for value in model.inputs]
    problems = [f"the model takes {counted(len(names), 'input')}, got {len(given)}"] if len(given) > len(names) else []
    by_position = dict(zip(names, given))
    wanted = ", ".join(f"{value.name}: {value.type}" for value in model.inputs)
    absent = {name for name, x in named.items() if x is None}
    problems += [f"the model has no input {name!r}" for name in named if name not in names and name not in absent]
    problems += [f"the input {name!r} is given twice" for name in named if name in by_position and name not in absent]
    found = {**by_position, **{name: x for name, x in named.items() if name not in absent}}
    problems += [f"the input {name!r} is missing" for name in names if name not in found]
    if problems:
        raise InputError(problems, mend=f"the model takes ({wanted})")
    return [array(name, found[name]) for name in names]


def array(name: str, given: Any) -> Array:
    """An input as an array of numpy. Raises InputError where it is none."""
    try:
        return as_array(given)
    except ValueError as error:
        raise InputError(f"{name} {error}") from None


def check(model: Graph, arrays: Sequence[Array]) -> dict[str, int]:
    """The sizes that the inputs give to the symbols of the model.

    Raises:
        InputError: every input of a wrong type or shape, and every token outside the vocabulary.
    """
    problems = [problem for value, x in zip(model.inputs, arrays, strict=True) for problem in _types(value, x)]
    if problems:
        raise InputError(problems)
    sizes = bind_sizes(model, [x.shape for x in arrays])
    problems = [problem for value, x in zip(model.inputs, arrays, strict=True) for problem in _ranges(model, value, x)]
    if problems:
        raise InputError(problems)
    return sizes


def one_document(model: Graph, ids: Array) -> list[Array]:
    """The inputs of a model of tokens for rows [b, t] that are one document each, without padding."""
    masks = (value.type.dtype is DType.BOOL for value in model.inputs[1:])
    return [ids, *(np.ones(ids.shape, bool) if is_mask else np.zeros(ids.shape, np.int64) for is_mask in masks)]


def specialise(model: Graph, sizes: Mapping[str, int]) -> Graph:
    """The model with every size a number, so that each op has seen whether it can do these.

    Raises:
        InputError: what an op says against them, such as a sequence longer than its `max_len`.
    """
    types: list[TensorType] = [value.type.bind(sizes) for value in model.inputs]
    try:
        return rewrite(model, inputs=types)
    except IRError as error:
        shown = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        raise InputError(error.problems, where=f"with {shown}", mend=error.mend) from None


def _types(value: Value, x: Array) -> Iterator[str]:
    wanted = value.type.dtype
    kinds = "f" if wanted.is_float else "b" if wanted is DType.BOOL else "iu"
    if x.dtype.kind not in kinds and x.size:
        yield f"{value.name} must hold {_KINDS[kinds]}, got {x.dtype}"


_KINDS = {"f": "floating-point numbers", "b": "true or false", "iu": "whole numbers"}


def _ranges(model: Graph, value: Value, x: Array) -> Iterator[str]:
    if value.type.dtype.is_float or value.type.dtype is DType.BOOL or not x.size:
        return
    rows = vocabulary(model, value)
    low, high, what = (INT32.min, INT32.max, "number") if rows is None else (0, rows - 1, "token id")
    if x.min() < low or x.max() > high:
        outside = (x < low) | (x > high)
        first = tuple(int(index) for index in np.argwhere(outside)[0])
        count = int(np.count_nonzero(outside))
        yield f"{value.name} has {counted(count, what)} outside {low} .. {high}, the first at {first}: {x[first]}"


def vocabulary(model: Graph, value: Value) -> int | None:
    """How many tokens there are where an input holds tokens; None where it holds something else."""
    return min((rows for node in model.nodes if (rows := _rows_read_by(node, value)) is not None), default=None)


def _rows_read_by(node: Any, value: Value) -> int | None:
    """How many rows the table has from which a node takes those that `value` names."""
    if node.op == "embed" and node.inputs[0] == value:
        return int(node.attrs["vocab"])
    if node.op == "gather" and node.inputs[1] == value:
        rows = node.inputs[0].type.shape[0]
        return rows if isinstance(rows, int) else None
    return None
