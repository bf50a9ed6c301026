"""Weights in fewer bits than the model computes in. Why in these forms, is in docs/decisions/052.

`int8` is MatMulNBits, an operator of ONNX Runtime: 8 bits a weight and a scale for each block of a column, and what
comes in is rounded to 8 bits by row and block too. A portable model has whole numbers and a scale a column, which
DequantizeLinear turns into floats. `float16` is that type in the file, cast to float32 when the model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper
from onnx.inliner import inline_local_functions

from flashir.errors import SettingError
from flashir_onnx.blocks import LEVELS, Blocks, in_blocks
from flashir_onnx.emit import Emitted
from flashir_onnx.verify import all_nodes
from flashir_onnx.weights import LARGE, Weights

Array = npt.NDArray[Any]
Quantise = Callable[[Emitted], Emitted]
KINDS = ("int8", "float16")
T = TypeVar("T")


def quantiser(kind: str, *, runtime_ops: bool = True) -> Quantise:
    """What rewrites emitted models; weights that several models share are shared after it too.

    Args:
        kind: one of `KINDS`.
        runtime_ops: whether operators of ONNX Runtime that are not of the standard may be used.

    Raises:
        SettingError: there is no such kind; or, from what is returned, a model has no weight to be narrowed.
    """
    forms: Mapping[str, Quantise] = {
        "int8": partial(_in_blocks if runtime_ops else _in_columns, _Once()),
        "float16": _in_halves,
    }
    if kind not in forms:
        raise SettingError(f"weights can be quantised to {' or '.join(KINDS)}, got {kind!r}")
    return forms[kind]


class _Once:
    """Makes new arrays of a weight once, however many models it is in."""

    def __init__(self) -> None:
        self._made: dict[Any, tuple[Array, Any]] = {}

    def __call__(self, make: Callable[[Array], T], array: Array) -> T:
        key = array.__array_interface__["data"], array.dtype.str, array.shape, array.strides
        if key not in self._made:
            self._made[key] = array, make(array)  # the former is kept, so that no other array gets its place
        made: T = self._made[key][1]
        return made


def _in_halves(emitted: Emitted) -> Emitted:
    """`weight` -> `Cast(weight/float16)`, for every large weight"""
    weights, widen = dict(emitted.weights.initializers), []
    for name, (array, dtype) in emitted.weights.initializers.items():
        if dtype == np.float32 and array.size * dtype.itemsize >= LARGE:
            del weights[name]
            weights[f"{name}/float16"] = array, np.dtype(np.float16)
            widen.append(helper.make_node("Cast", [f"{name}/float16"], [name], to=TensorProto.FLOAT))
    return _with(emitted.model, weights, widen)


def _in_columns(once: _Once, emitted: Emitted) -> Emitted:
    """`weight` -> `DequantizeLinear(weight/int8, weight/scales)`, with a scale for each column of a product"""
    weights, widen = dict(emitted.weights.initializers), []
    flat = inline_local_functions(emitted.model)
    for name, by_rows in _matrices(flat, emitted.weights).items():
        axis = 0 if by_rows else 1
        whole, scales = once(partial(columns, axis=axis), weights.pop(name)[0])
        weights |= {f"{name}/int8": (whole, whole.dtype), f"{name}/scales": (scales, scales.dtype)}
        narrow = [f"{name}/int8", f"{name}/scales"]
        widen.append(helper.make_node("DequantizeLinear", narrow, [name], axis=axis))
    return _with(emitted.model, weights, widen)


def columns(matrix: Array, axis: int) -> tuple[Array, Array]:
    """int8 in the shape of a matrix, and a scale for each index of the axis."""
    largest = np.abs(matrix).max(axis=1 - axis)
    scales = np.asarray(largest / LEVELS, np.float32)
    spread = np.expand_dims(scales, 1 - axis)
    shares = np.divide(matrix, spread, out=np.zeros(matrix.shape, np.float32), where=spread > 0)
    return np.clip(np.rint(shares), -LEVELS, LEVELS).astype(np.int8), scales


def _in_blocks(once: _Once, emitted: Emitted) -> Emitted:
    """`MatMul(x, weight)` -> `MatMulNBits(x, weight/blocks, weight/scales)`, and rows of tables out of blocks

    Functions are inlined, for a product in them takes more inputs than before.
    """
    flat = inline_local_functions(emitted.model)
    weights, tables = dict(emitted.weights.initializers), {}
    for name, by_rows in _matrices(flat, emitted.weights).items():
        array, _ = weights.pop(name)
        tables[name] = made = once(Blocks.of, array if by_rows else array.T)
        weights |= {each: (array, array.dtype) for each, array in made.named(name).items()}
    return _with(in_blocks(flat, tables), weights, [])


def _matrices(flat: ModelProto, weights: Weights) -> dict[str, bool]:
    """The weights that are the matrix of products, or tables of rows, and nothing else.

    With each, whether a product sums over its last axis, as over those of a row, or over its first.
    """
    found: dict[str, set[bool | None]] = {
        name: set()
        for name, (array, dtype) in weights.initializers.items()
        if array.ndim == 2 and dtype == np.float32 and array.size * dtype.itemsize >= LARGE
    }
    for node in all_nodes(flat):
        for place, name in enumerate(node.input):
            if name in found:
                found[name].add(_by_rows(node, place))
    matrices = {name: uses.pop() for name, uses in found.items() if len(uses) == 1}
    kept = {name: by_rows for name, by_rows in matrices.items() if by_rows is not None}
    if not kept:
        raise SettingError(
            "the model has no matrix that could be quantised",
            hint=f"one has at least {LARGE} bytes; leave out quantize",
        )
    return kept


def _by_rows(node: NodeProto, place: int) -> bool | None:
    """How a node uses the matrix at a place among its inputs; None for another use."""
    attrs = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    match node.op_type, place:
        case "MatMul", 1:
            return False
        case "Gemm", 1 if attrs.keys() <= {"transB"}:
            return bool(attrs.get("transB", 0))
        case "Gather", 0 if attrs.get("axis", 0) == 0:
            return True
    return None


def _with(model: ModelProto, initializers: Mapping[str, tuple[Array, Any]], first: list[NodeProto]) -> Emitted:
    """A copy of the model with other weights, and some nodes before its own."""
    weights, changed = Weights(initializers), ModelProto()
    changed.CopyFrom(model)
    nodes = [*first, *changed.graph.node]
    del changed.graph.node[:], changed.graph.initializer[:]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend(weights.stand_ins())
    return Emitted(changed, weights)
