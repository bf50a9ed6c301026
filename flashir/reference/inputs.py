"""Collect and check the inputs of a run before any work starts, for every backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flashir.errors import InputError, counted, gathered
from flashir.ir import DType, Graph, Size, Value
from flashir.ops import OPS
from flashir.reference.arrays import Array, as_array
from flashir.transforms import bind_sizes

INT32 = np.iinfo(np.int32)
SEGMENT_IDS, MASK = "segment_ids", "mask"


def collect(model: Graph, positional: Sequence[Any], named: Mapping[str, Any]) -> list[Array]:
    """The inputs in the order of the model, passed by position or by name.

    Raises:
        InputError: lists every input that is missing, unknown, or passed twice.
    """
    names = [value.name for value in model.inputs]
    problems = (
        [f"the model takes {counted(len(names), 'input')}, got {len(positional)}"]
        if len(positional) > len(names)
        else []
    )
    by_position = dict(zip(names, positional))
    signature = ", ".join(f"{value.name}: {value.type}" for value in model.inputs)
    absent = {name for name, x in named.items() if x is None}
    problems += [f"the model has no input {name!r}" for name in named if name not in names and name not in absent]
    problems += [f"the input {name!r} is given twice" for name in named if name in by_position and name not in absent]
    inputs = {**by_position, **{name: x for name, x in named.items() if name not in absent}}
    problems += [f"the input {name!r} is missing" for name in names if name not in inputs]
    if problems:
        raise InputError(problems, hint=f"the model takes ({signature})")
    return [array(name, inputs[name]) for name in names]


def array(name: str, value: Any) -> Array:
    """An input as a NumPy array. Raises InputError if it is not an array."""
    try:
        return as_array(value)
    except ValueError as error:
        raise InputError(f"{name} {error}") from None


def check(model: Graph, arrays: Sequence[Array]) -> dict[str, int]:
    """Check the inputs, and return the sizes of the symbols of the model.

    Raises:
        InputError: lists every input of a wrong dtype or shape, and every token outside the vocabulary.
    """
    problems, sizes = list[str](), dict[str, int]()
    for value, x in zip(model.inputs, arrays, strict=True):
        problems += [*_types(value, x)] or _ranges(model, value, x)
    with gathered(problems):
        sizes = bind_sizes(model, [x.shape for x in arrays])
    if problems:
        raise InputError(problems)
    return sizes


def one_document(model: Graph, ids: Array) -> list[Array]:
    """All inputs of a model for token rows [b, t] without padding, each a single document."""
    return [ids, *undivided(model, ids).values()]


def undivided(model: Graph, first: Array) -> dict[str, Array]:
    """The masking inputs of a model by name, if each row [b, t, ..] of its first input is one document, unpadded."""
    rows, one = first.shape[:2], {SEGMENT_IDS: np.zeros, MASK: np.ones}
    types = {SEGMENT_IDS: np.int64, MASK: np.bool_}
    return {value.name: one[role](rows, types[role]) for role, value in masking_inputs(model).items()}


def masking_inputs(model: Graph) -> dict[str, Value]:
    """The inputs [b, t] that separate tokens, by role: `segment_ids` holds whole numbers, `mask` is bool."""
    rows = model.inputs[0].type.shape[:2] if model.inputs else ()
    beside = [value for value in model.inputs[1:] if value.type.shape == rows and not value.type.dtype.is_float]
    return {MASK if value.type.dtype is DType.BOOL else SEGMENT_IDS: value for value in beside}


def _types(value: Value, x: Array) -> Iterator[str]:
    dtype = value.type.dtype
    kinds = "f" if dtype.is_float else "b" if dtype is DType.BOOL else "iu"
    if x.dtype.kind not in kinds and x.size:
        yield f"{value.name} must hold {_KINDS[kinds]}, got {x.dtype}"


_KINDS = {"f": "floating-point numbers", "b": "true or false", "iu": "whole numbers"}


def _ranges(model: Graph, value: Value, x: Array) -> Iterator[str]:
    if value.type.dtype.is_float or value.type.dtype is DType.BOOL or not x.size:
        return
    rows = vocabulary(model, value, clipped=False)
    low, high, what = (INT32.min, INT32.max, "number") if rows is None else (0, rows - 1, "token id")
    if x.min() < low or x.max() > high:
        outside = (x < low) | (x > high)
        first = tuple(int(index) for index in np.argwhere(outside)[0])
        count = int(np.count_nonzero(outside))
        yield f"{value.name} has {counted(count, what)} outside {low} .. {high}, the first at {first}: {x[first]}"


def vocabulary(model: Graph, value: Value, *, clipped: bool = True) -> int | None:
    """The size of the vocabulary if an input holds tokens; otherwise None.

    An input holds tokens if an op looks up rows of a table by its values, at any level of lowering. Values are
    followed through ops that move them, and into the bodies of loops.

    Args:
        model: any graph.
        value: an input.
        clipped: also count lookups by values that a `minimum` or `maximum` keeps within bounds.
    """
    known = [size for size in _tables(model, {value}, clipped) if isinstance(size, int)]
    return min(known, default=None)


def _tables(graph: Graph, ids: set[Value], clipped: bool) -> Iterator[Size]:
    """The row counts of the tables that `ids` index. Adds the values that hold the same ids to `ids`."""
    for node in graph.nodes:
        if ids.isdisjoint(node.operands):
            continue
        record = OPS[node.op]
        if record.rows is not None:
            place, rows = record.rows([v.type if v else None for v in node.inputs], node.attrs)
            if node.inputs[place] in ids:
                yield rows
        elif node.region is not None:
            pairs = zip(node.region.inputs, node.operands, strict=True)
            inside = {own for own, outer in pairs if outer in ids}
            yield from _tables(node.region, inside, clipped)
            ids |= {outer for own, outer in zip(node.region.outputs, node.outputs, strict=True) if own in inside}
        elif record.moves or (clipped and record.clips):
            ids |= set(node.outputs)
