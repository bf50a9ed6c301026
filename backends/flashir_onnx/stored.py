"""The parameters in an artefact, back from the form in which they are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, helper, numpy_helper

from flashir.backends.narrow_weights import WEIGHTS
from flashir.errors import ArtefactError, option
from flashir.ir import Graph, loads
from flashir.ir.parameter_names import parameters
from flashir_onnx.blocks import MIDDLE, ROWS
from flashir_onnx.seal import MODEL, Reader
from flashir_onnx.verify import all_nodes

Array = npt.NDArray[Any]
SAME_NUMBERS = ("reshape", "cast")
"""What may be made of a parameter before it is written, and holds all of its numbers in their order."""
PART = "split."


def stored(path: Path) -> tuple[Graph, dict[str, npt.NDArray[np.float32]]]:
    """The model and its parameters: the numbers that the artefact computes with, as float32.

    A parameter is written under its own name, or under that of what is made of it alone (`NAME/reshape`, `NAME/cast`,
    in parts as `NAME/split.0`, ..). Either may be in float16 (`NAME/float16`), in 8 bits with a scale for each row or
    column (`NAME/int8`, `NAME/scales`), or in blocks (`NAME/blocks`, `NAME/scales`).

    Raises:
        ArtefactError: the files are damaged, or a parameter is written in no such form.
    """
    about = Reader().metadata(path)
    graph = loads(about[MODEL], str(path))
    written = _Written.of(onnx.load(path))
    found = {name: written.parameter(name, spec.shape) for name, spec in parameters(graph).items()}
    missing = [name for name, array in found.items() if array is None]
    if missing:
        raise ArtefactError(
            f"the parameters {', '.join(missing[:3])}{', ..' * (len(missing) > 3)} are not whole in it; "
            f"its weights are {about.get(WEIGHTS, 'written in another form')}",
            where=str(path),
            hint=f"take the parameters that it was made from: {option('params', 'FILE')}, or their checkpoint; "
            f"to be continued, an export wants {option('decode')}",
        )
    return graph, {name: np.asarray(array, np.float32) for name, array in found.items() if array is not None}


@dataclass(frozen=True)
class _Written:
    """The initializers of a model.

    Args:
        arrays: by name.
        made_of: the names of ops that stand behind a name and a slash in those of initializers, by that name.
        axes: along which those in 8 bits have a scale for each index, by name.
        lengths: how many numbers a row has of those in blocks, by name; the last block may have more.
        tables: the names of those in blocks whose rows are looked up, so that they lie as they are.
    """

    arrays: Mapping[str, Array]
    made_of: Mapping[str, set[str]]
    axes: Mapping[str, int]
    lengths: Mapping[str, int]
    tables: frozenset[str]

    @classmethod
    def of(cls, model: ModelProto) -> _Written:
        """Those of a model."""
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        made_of: dict[str, set[str]] = {}
        for name in arrays:
            parts = name.split("/")
            for end in range(1, len(parts)):
                made_of.setdefault("/".join(parts[:end]), set()).add(parts[end])
        axes, lengths, tables = {}, {}, set()
        for node in all_nodes(model):
            given = (each for each in node.attribute if not each.ref_attr_name)
            attrs = {each.name: helper.get_attribute_value(each) for each in given}
            match node.op_type, list(node.input):
                case "DequantizeLinear", [name, *_]:
                    axes[name] = attrs.get("axis", 1)
                case "MatMulNBits", [_, name, *_]:
                    lengths[name] = attrs["K"]
                case ROWS.name, [name, *_]:
                    lengths[name] = attrs["k"][0]
                    tables.add(name)
        return cls(arrays, made_of, axes, lengths, frozenset(tables))

    def parameter(self, name: str, shape: tuple[int, ...]) -> Array | None:
        """A parameter in its shape; None where not all of it is written."""
        array = self._numbers(name, shape)
        return None if array is None or array.size != np.prod(shape) else array.reshape(shape)

    def _numbers(self, name: str, shape: tuple[int, ...]) -> Array | None:
        """The numbers of what has that name, in their order; the shape is that of the whole parameter."""
        for each in (name, f"{name}/float16"):
            if each in self.arrays:
                return self.arrays[each]
        if f"{name}/int8" in self.arrays:
            return self._scaled(name)
        if f"{name}/blocks" in self.arrays:
            return self._unblocked(name, shape)
        for op in self.made_of.get(name, ()):
            if op in SAME_NUMBERS and (made := self._numbers(f"{name}/{op}", shape)) is not None:
                return made
        return self._joined(name)

    def _joined(self, name: str) -> Array | None:
        """What is written in parts, which are cut along the last axis."""
        numbers = sorted(int(op.removeprefix(PART)) for op in self.made_of.get(name, ()) if op.startswith(PART))
        parts = [self._numbers(f"{name}/{PART}{number}", ()) for number in numbers]
        whole = [each for each in parts if each is not None]
        return np.concatenate(whole, axis=-1) if whole and len(whole) == numbers[-1] + 1 else None

    def _scaled(self, name: str) -> Array | None:
        """8 bits times a scale for each index of an axis."""
        whole, scales = self.arrays[f"{name}/int8"], self.arrays.get(f"{name}/scales")
        axis = self.axes.get(f"{name}/int8")
        if scales is None or axis is None:
            return None
        return np.asarray(whole * np.expand_dims(scales, 1 - axis), np.float32)

    def _unblocked(self, name: str, shape: tuple[int, ...]) -> Array | None:
        """8 bits in blocks, each with a scale; a matrix of products lies transposed, [out, in]."""
        blocks, scales = self.arrays[f"{name}/blocks"], self.arrays.get(f"{name}/scales")
        length = self.lengths.get(f"{name}/blocks")
        if scales is None or length is None:
            return None
        parts = (blocks.astype(np.float32) - MIDDLE) * scales[..., None]
        rows = parts.reshape(len(blocks), -1)[:, :length]
        by_rows = f"{name}/blocks" in self.tables or (rows.shape == shape and rows.shape[0] != rows.shape[1])
        return rows if by_rows else rows.T
