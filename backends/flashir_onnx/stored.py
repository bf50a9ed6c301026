"""Recover the parameters of an artefact from its initializers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, helper, numpy_helper

from flashir.backends.narrow_weights import WEIGHTS
from flashir.backends.protocols import MODEL_TEXT, Array
from flashir.errors import ArtefactError, option
from flashir.ir import Graph, loads
from flashir.ir.parameter_names import parameters
from flashir_onnx.blocks import ROWS, unpacked
from flashir_onnx.seal import Reader
from flashir_onnx.verify import all_nodes

SAME_NUMBERS = ("reshape", "cast")
"""Ops on a parameter that keep all its values in order."""
PART = "split."


def stored(path: Path) -> tuple[Graph, dict[str, npt.NDArray[np.float32]]]:
    """The model of an artefact and its parameters as float32, with the values that the artefact computes with.

    A parameter is stored under its name, or under the name of an op on it (`NAME/reshape`, `NAME/cast`, or in parts as
    `NAME/split.0`, ..). Each may be in float16 (`NAME/float16`), in int8 with a scale per row or column (`NAME/int8`,
    `NAME/scales`), or in blocks (`NAME/blocks`, `NAME/scales`).

    Raises:
        ArtefactError: the files are damaged, or a parameter is stored in another form.
    """
    metadata = Reader().metadata(path)
    graph = loads(metadata[MODEL_TEXT], str(path))
    written = _Written.of(onnx.load(path))
    return graph, _complete(graph, written, str(path), metadata.get(WEIGHTS, "written in another form"))


def recovered(graph: Graph, arrays: Mapping[str, Array], where: str) -> dict[str, npt.NDArray[np.float32]]:
    """The parameters of a model from weights with the names that `emit` gives them, for other formats.

    Args:
        graph: the model.
        arrays: weights by name.
        where: the artefact, for errors.

    Raises ArtefactError if one is not complete.
    """
    written = _Written(arrays, _suffixes(arrays), {}, {}, {}, frozenset())
    return _complete(graph, written, where, "written in another form")


def _complete(graph: Graph, written: _Written, where: str, form: str) -> dict[str, npt.NDArray[np.float32]]:
    arrays = {name: written.parameter(name, spec.shape) for name, spec in parameters(graph).items()}
    missing = [name for name, array in arrays.items() if array is None]
    if missing:
        raise ArtefactError(
            f"the parameters {', '.join(missing[:3])}{', ..' * (len(missing) > 3)} are not complete in it; "
            f"its weights are {form}",
            where=where,
            hint=f"use the parameters that it was exported from: {option('params', 'FILE')}, or their checkpoint; "
            f"to continue texts, export with {option('decode')}",
        )
    return {name: np.asarray(array, np.float32) for name, array in arrays.items() if array is not None}


@dataclass(frozen=True)
class _Written:
    """The initializers of a model.

    Args:
        arrays: the initializers by name.
        made_of: for each name, the ops that follow it and a slash in names of initializers.
        axes: the axis of the scales of int8 weights, by name.
        lengths: the row length of block-quantised weights, by name; the last block may be padded.
        bits: the bits of their numbers, by name; 8 if missing.
        tables: the names of block-quantised lookup tables, which are not transposed.
    """

    arrays: Mapping[str, Array]
    made_of: Mapping[str, set[str]]
    axes: Mapping[str, int]
    lengths: Mapping[str, int]
    bits: Mapping[str, int]
    tables: frozenset[str]

    @classmethod
    def of(cls, model: ModelProto) -> _Written:
        """The initializers of a model."""
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        axes, lengths, bits, tables = {}, {}, {}, set()
        for node in all_nodes(model):
            own = (attribute for attribute in node.attribute if not attribute.ref_attr_name)
            attrs = {attribute.name: helper.get_attribute_value(attribute) for attribute in own}
            match node.op_type, list(node.input):
                case "DequantizeLinear", [name, *_]:
                    axes[name] = attrs.get("axis", 1)
                case "MatMulNBits", [_, name, *_]:
                    lengths[name], bits[name] = attrs["K"], attrs["bits"]
                case ROWS.name, [name, *_]:
                    lengths[name] = attrs["k"][0]
                    tables.add(name)
        return cls(arrays, _suffixes(arrays), axes, lengths, bits, frozenset(tables))

    def parameter(self, name: str, shape: tuple[int, ...]) -> Array | None:
        """A parameter in its shape; None if it is not stored completely."""
        array = self._numbers(name, shape)
        return None if array is None or array.size != np.prod(shape) else array.reshape(shape)

    def _numbers(self, name: str, shape: tuple[int, ...]) -> Array | None:
        """The values stored under a name, in order; `shape` is that of the whole parameter."""
        for stored_name in (name, f"{name}/float16"):
            if stored_name in self.arrays:
                return self.arrays[stored_name]
        if f"{name}/int8" in self.arrays:
            return self._scaled(name)
        if f"{name}/blocks" in self.arrays:
            return self._unblocked(name, shape)
        for op in self.made_of.get(name, ()):
            if op in SAME_NUMBERS and (values := self._numbers(f"{name}/{op}", shape)) is not None:
                return values
        return self._joined(name)

    def _joined(self, name: str) -> Array | None:
        """The values stored in parts, split along the last axis."""
        numbers = sorted(int(op.removeprefix(PART)) for op in self.made_of.get(name, ()) if op.startswith(PART))
        parts = [self._numbers(f"{name}/{PART}{number}", ()) for number in numbers]
        whole = [part for part in parts if part is not None]
        return np.concatenate(whole, axis=-1) if whole and len(whole) == numbers[-1] + 1 else None

    def _scaled(self, name: str) -> Array | None:
        """Dequantise int8 weights with a scale per index of an axis."""
        whole, scales = self.arrays[f"{name}/int8"], self.arrays.get(f"{name}/scales")
        axis = self.axes.get(f"{name}/int8")
        if scales is None or axis is None:
            return None
        return np.asarray(whole * np.expand_dims(scales, 1 - axis), np.float32)

    def _unblocked(self, name: str, shape: tuple[int, ...]) -> Array | None:
        """Dequantise a block-quantised weight. The matrix of a product is stored transposed, [out, in]."""
        blocks, scales = self.arrays[f"{name}/blocks"], self.arrays.get(f"{name}/scales")
        length = self.lengths.get(f"{name}/blocks")
        if scales is None or length is None:
            return None
        parts = unpacked(blocks, scales, self.bits.get(f"{name}/blocks", 8))
        rows = parts.reshape(len(blocks), -1)[:, :length]
        by_rows = f"{name}/blocks" in self.tables or (rows.shape == shape and rows.shape[0] != rows.shape[1])
        return rows if by_rows else rows.T


def _suffixes(names: Iterable[str]) -> dict[str, set[str]]:
    """For each name, what follows it and a slash in other names."""
    suffixes: dict[str, set[str]] = {}
    for name in names:
        parts = name.split("/")
        for end in range(1, len(parts)):
            suffixes.setdefault("/".join(parts[:end]), set()).add(parts[end])
    return suffixes
