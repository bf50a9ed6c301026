"""Quantised weights. docs/decisions/052 explains the choice of formats.

`int8` uses MatMulNBits of ONNX Runtime: 8 bits per weight, a scale per block of a column, and inputs rounded to 8 bits
per row and block. `int4` is the same with 4 bits, except for lookup tables and the first layer, which keep 8. A
portable `int8` model has int8 weights with a scale per column, which DequantizeLinear turns into floats. `float16`
stores weights in float16 and casts them to float32 when the model is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper
from onnx.inliner import inline_local_functions

from flashir.backends.protocols import Array
from flashir.errors import SettingError
from flashir_onnx.blocks import LEVELS, Blocks, in_blocks
from flashir_onnx.emit import Emitted
from flashir_onnx.verify import all_nodes
from flashir_onnx.weights import LARGE, Weights

Quantise = Callable[[Emitted], Emitted]
KINDS = ("int8", "int4", "float16")
T = TypeVar("T")
_LAYER = re.compile(r".*?\.\d+\.")


def quantiser(kind: str, *, runtime_ops: bool = True) -> Quantise:
    """A function that quantises emitted models. Models that share weights also share the quantised ones.

    Args:
        kind: one of `KINDS`.
        runtime_ops: whether to use non-standard operators of ONNX Runtime.

    Raises:
        SettingError: the kind is unknown, or needs operators of ONNX Runtime. The returned function raises it for a
            model without a weight to quantise.
    """
    forms: dict[str, Quantise] = {"float16": _in_halves}
    if runtime_ops:
        forms |= {"int8": partial(_in_blocks, Once(), bits=8), "int4": partial(_in_blocks, Once(), bits=4)}
    else:
        forms |= {"int8": partial(_in_columns, Once())}
    if kind not in KINDS:
        raise SettingError(f"weights can be quantised to {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {kind!r}")
    if kind not in forms:
        raise SettingError(f"{kind} needs operators of ONNX Runtime", hint="leave out portable, or use int8")
    return forms[kind]


class Once:
    """Caches the conversion of a weight, for weights that several models share."""

    def __init__(self) -> None:
        self._cache: dict[Any, tuple[Array, Any]] = {}

    def __call__(self, make: Callable[[Array], T], array: Array) -> T:
        """The conversion of an array, computed at its first call."""
        key = array.__array_interface__["data"], array.dtype.str, array.shape, array.strides
        if key not in self._cache:
            self._cache[key] = array, make(array)  # keeps the array alive, so that its address stays unique
        converted: T = self._cache[key][1]
        return converted


def _in_halves(emitted: Emitted) -> Emitted:
    """`weight` -> `Cast(weight/float16)`, for every large weight."""
    weights, widen = dict(emitted.weights.initializers), []
    for name, (array, dtype) in emitted.weights.initializers.items():
        if dtype == np.float32 and array.size * dtype.itemsize >= LARGE:
            del weights[name]
            weights[f"{name}/float16"] = array, np.dtype(np.float16)
            widen.append(helper.make_node("Cast", [f"{name}/float16"], [name], to=TensorProto.FLOAT))
    return _with(emitted.model, weights, widen)


def _in_columns(once: Once, emitted: Emitted) -> Emitted:
    """`weight` -> `DequantizeLinear(weight/int8, weight/scales)`, with a scale per column of a product."""
    weights, widen = dict(emitted.weights.initializers), []
    flat = inline_local_functions(emitted.model)
    for name, by_rows in matrices(flat, emitted.weights).items():
        axis = 0 if by_rows else 1
        whole, scales = once(partial(columns, axis=axis), weights.pop(name)[0])
        weights |= {f"{name}/int8": (whole, whole.dtype), f"{name}/scales": (scales, scales.dtype)}
        narrow = [f"{name}/int8", f"{name}/scales"]
        widen.append(helper.make_node("DequantizeLinear", narrow, [name], axis=axis))
    return _with(emitted.model, weights, widen)


def columns(matrix: Array, axis: int) -> tuple[Array, Array]:
    """A matrix as int8, and a scale for each index of an axis."""
    largest = np.abs(matrix).max(axis=1 - axis)
    scales = np.asarray(largest / LEVELS, np.float32)
    spread = np.expand_dims(scales, 1 - axis)
    shares = np.divide(matrix, spread, out=np.zeros(matrix.shape, np.float32), where=spread > 0)
    return np.clip(np.rint(shares), -LEVELS, LEVELS).astype(np.int8), scales


def _in_blocks(once: Once, emitted: Emitted, bits: int) -> Emitted:
    """`MatMul(x, weight)` -> `MatMulNBits(x, weight/blocks, weight/scales)`, and lookups from blocks.

    Functions are inlined, because their products get additional inputs.
    """
    flat = inline_local_functions(emitted.model)
    weights, tables = dict(emitted.weights.initializers), {}
    usable = matrices(flat, emitted.weights)
    eight = sensitive(flat, usable)
    for name, by_rows in usable.items():
        array, _ = weights.pop(name)
        own = 8 if name in eight else bits
        tables[name] = table = once(partial(Blocks.of, bits=own), array if by_rows else array.T)
        weights |= {part: (array, array.dtype) for part, array in table.named(name).items()}
    return _with(in_blocks(flat, tables), weights, [])


def matrices(flat: ModelProto, weights: Weights, *, transposed: bool = False) -> dict[str, bool]:
    """The weights that are only used as the matrix of products or as lookup tables.

    The value says whether a product sums over the last axis (by rows) or over the first.

    Args:
        flat: a model without functions.
        weights: its weights.
        transposed: whether products may read a matrix through a Transpose.

    Raises:
        SettingError: there is none.
    """
    uses_of: dict[str, set[bool | None]] = {
        name: set()
        for name, (array, dtype) in weights.initializers.items()
        if array.ndim == 2 and dtype == np.float32 and array.size * dtype.itemsize >= LARGE
    }
    for node in all_nodes(flat):
        for place, name in enumerate(node.input):
            if name in uses_of:
                uses_of[name].add(True if transposed and node.op_type == "Transpose" else _by_rows(node, place))
    consistent = {name: uses.pop() for name, uses in uses_of.items() if len(uses) == 1}
    usable = {name: by_rows for name, by_rows in consistent.items() if by_rows is not None}
    if not usable:
        raise SettingError(
            "the model has no matrix that could be quantised",
            hint=f"one has at least {LARGE} bytes; leave out quantize",
        )
    return usable


def sensitive(flat: ModelProto, names: Iterable[str]) -> set[str]:
    """The weights among these that keep 8 bits where others get 4: lookup tables, and those of the first layer.

    A layer is what parameter names number, such as `layers.0`. See docs/decisions/052.
    """
    usable = set(names)
    nodes = list(all_nodes(flat))
    tables = usable & {node.input[0] for node in nodes if node.op_type == "Gather"}
    others = usable - tables
    first = next((name for node in nodes for name in node.input if name in others), "")
    layer = _LAYER.match(first)
    return tables | {name for name in others if name == first or (layer and name.startswith(layer[0]))}


def _by_rows(node: NodeProto, place: int) -> bool | None:
    """How a node uses a matrix at a position among its inputs; None for any other use."""
    attrs = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    match node.op_type, place:
        case "MatMul", 1:
            return False
        case "Gemm", 1 if attrs.keys() <= {"transB"}:
            return bool(attrs.get("transB", 0))
        case "Gather", 0 if attrs.get("axis", 0) == 0:
            return True
    return None


def _with(model: ModelProto, initializers: Mapping[str, tuple[Array, Any]], first: list[NodeProto]) -> Emitted:
    """A copy of the model with other weights, and further nodes at the start."""
    weights, changed = Weights(initializers), ModelProto()
    changed.CopyFrom(model)
    nodes = [*first, *changed.graph.node]
    del changed.graph.node[:], changed.graph.initializer[:]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend(weights.stand_ins())
    return Emitted(changed, weights)
