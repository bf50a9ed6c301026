"""Read an ONNX file of another program: bounded, with its external weights, and without running anything."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, helper, inliner, numpy_helper, shape_inference

from flashir.backends.protocols import Array
from flashir.errors import ArtefactError
from flashir.files.foreign import guarded, opened
from flashir_onnx.seal import LARGEST, external_entries, parsed_file
from flashir_onnx.verify import all_nodes, size_inlined
from flashir_onnx.weights import Weights

MOST_NODES = 100_000
SHOWN = 5
"""The most nodes or weights that an error lists for one problem."""

_NUMBER = re.compile("[0-9]{1,18}")
_TYPES = frozenset((TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL))
_PROBLEM = "its weights cannot be read"


@dataclass(frozen=True)
class ForeignModel:
    """An ONNX model without its weights, and the weights.

    Args:
        path: the file.
        model: the model, with stand-ins for large weights.
        weights: the weights by name.
    """

    path: Path
    model: ModelProto
    weights: Weights


def read_foreign(path: Path) -> ForeignModel:
    """Read and check a model of one graph of standard operators.

    Raises ArtefactError that lists the problems: weights outside the folder of the file, weights that do not match
    their bytes, other number types than float32 and integers, control flow, operators of other domains.
    """
    return _checked(parsed_file(path), path)


def _checked(model: ModelProto, path: Path) -> ForeignModel:
    if (count := size_inlined(model)) > MOST_NODES:
        raise ArtefactError(f"it has {count:,} nodes, more than {MOST_NODES:,}", where=str(path))
    if model.functions:
        with guarded(path, ArtefactError, "its functions cannot be inlined"):
            model = inliner.inline_local_functions(model)
    if problems := _problems(model) or _large_values(model, path):
        raise ArtefactError(problems, where=str(path))
    arrays: dict[str, Array] = {}
    for tensor in model.graph.initializer:
        with guarded(path, ArtefactError, f"{_PROBLEM}: {tensor.name!r}"):
            arrays[tensor.name] = _array(tensor, path)
    weights = Weights({name: (array, array.dtype) for name, array in arrays.items()})
    bare = ModelProto()
    bare.CopyFrom(model)
    bare.graph.ClearField("initializer")
    bare.graph.initializer.extend(weights.stand_ins())
    return ForeignModel(path, bare, weights)


def _problems(model: ModelProto) -> list[str]:
    """What the rest of the importer relies on, and this model violates."""
    nodes = list(all_nodes(model))
    problems = []
    foreign = [node for node in nodes if node.domain not in ("", "ai.onnx")]
    problems += [f"{node.domain}.{node.op_type} at {label(node)} is no operator of ONNX" for node in foreign[:SHOWN]]
    bodies = [
        node for node in nodes if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute)
    ]
    problems += [f"{node.op_type} at {label(node)} is control flow" for node in bodies[:SHOWN]]
    tensors = model.graph.initializer
    if model.graph.sparse_initializer:
        problems.append("it has sparse weights")
    if external_entries(model) != sum(len(tensor.external_data) for tensor in tensors):
        problems.append("it has external weights outside its graph")
    if len({tensor.name for tensor in tensors}) < len(tensors):
        problems.append("two of its weights have the same name")
    odd = [tensor for tensor in tensors if tensor.data_type not in _TYPES]
    problems += [
        f"the weight {tensor.name!r} holds {_type_name(tensor)}, wanted float32 or integers" for tensor in odd[:SHOWN]
    ]
    wide = [tensor for tensor in tensors if any(size < 0 for size in tensor.dims) or _size(tensor) > LARGEST]
    problems += [f"the weight {tensor.name!r} has an absurd shape, {list(tensor.dims)}" for tensor in wide[:SHOWN]]
    if sum(map(_size, tensors)) > LARGEST and not wide:
        problems.append(f"its weights have more than {LARGEST:,} bytes")
    return problems


def _large_values(model: ModelProto, path: Path) -> list[str]:
    """Values whose size is known, and larger than any tensor may be."""
    with guarded(path, ArtefactError, "its shapes cannot be inferred"):
        inferred = shape_inference.infer_shapes(model, data_prop=True)
    sizes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim if size.HasField("dim_value")]
        for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    }
    large = [name for name, known in sizes.items() if prod(known) > LARGEST or any(size < 0 for size in known)]
    return [f"the value {name!r} has an absurd shape, {sizes[name]}" for name in large[:SHOWN]]


def label(node: Any) -> str:
    """The name of a node for messages."""
    return repr(node.name or (node.output[0] if node.output else ""))


def _type_name(tensor: TensorProto) -> str:
    known = tensor.data_type in TensorProto.DataType.values()
    return TensorProto.DataType.Name(tensor.data_type).lower() if known else f"an unknown type, {tensor.data_type}"


def _dtype(tensor: TensorProto) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))


def _size(tensor: TensorProto) -> int:
    """Bytes by the shape."""
    return int(prod(tensor.dims)) * (_dtype(tensor).itemsize if tensor.data_type in _TYPES else 8)


def _array(tensor: TensorProto, path: Path) -> Array:
    """A weight. Raises ValueError, and ArtefactError for external data."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location, offset = entries.get("location", ""), entries.get("offset", "0")
    length = entries.get("length", str(_size(tensor)))
    if location != Path(location).name or location in ("", ".", "..") or "\\" in location:
        raise ValueError(f"it is stored in {location!r}, which is not a file next to the model")
    if not _NUMBER.fullmatch(offset) or not _NUMBER.fullmatch(length) or int(length) != _size(tensor):
        raise ValueError(f"it has offset {offset!r} and length {length!r}, its shape needs {_size(tensor)} bytes")
    data = path.with_name(location)
    if data.resolve().parent != path.resolve().parent:
        raise ValueError(f"{location!r} is a link to another folder")
    with opened(data, ArtefactError) as file:
        if int(offset) + int(length) > (size := os.fstat(file.fileno()).st_size):
            raise ValueError(f"it ends at byte {int(offset) + int(length):,} of {location!r}, which has {size:,}")
        file.seek(int(offset))
        return np.frombuffer(file.read(int(length)), _dtype(tensor)).reshape(tuple(tensor.dims))
