"""The weights of an ONNX model: arrays until they are written, inside the model file or in a data file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from flashir.errors import ParameterError

LARGE = 1024
"""Weights of at least this many bytes may be external. Smaller ones may be shapes, which checkers need to see."""

LARGEST_INSIDE = 2**27
"""Most bytes of weights in a model file, 128 MiB; more go into a data file.

Writing and checking a single file needs five times its weights in memory: protobuf's copy, the serialised form, and
what the checkers parse. A data file needs only its largest weight. protobuf is limited to 2 GiB. Runtimes map a data
file into memory, but parse and copy weights inside the model.
"""

ALIGNMENT = 4096  # so that a runtime can map each weight into memory
OUTSIDE = "weights"

Initializers = Mapping[str, tuple[npt.NDArray[Any], np.dtype[Any]]]


@dataclass(frozen=True)
class Weights:
    """Arrays by name, each with the dtype that it is written in."""

    initializers: Initializers

    @property
    def nbytes(self) -> int:
        """Bytes of all weights as written."""
        return sum(array.size * dtype.itemsize for array, dtype in self.initializers.values())

    @property
    def fit_inside(self) -> bool:
        """Whether the model and its weights should be one file."""
        return self.nbytes <= LARGEST_INSIDE

    def array(self, name: str) -> npt.NDArray[Any]:
        """A weight in its written dtype. Raises ParameterError if it overflows."""
        array, dtype = self.initializers[name]
        try:
            with np.errstate(over="raise"):
                return np.asarray(array, dtype, order="C")
        except FloatingPointError:
            largest = np.abs(array).max()
            raise ParameterError(
                f"{name} has numbers up to {largest:.3g}, too large for {dtype}", hint="use float32"
            ) from None

    def stand_ins(self) -> list[TensorProto]:
        """Every weight as a tensor; the large ones have only a name, dtype and shape."""
        return [self._tensor(name) for name in self.initializers]

    def large(self) -> Iterator[str]:
        """The names of the weights that may be external."""
        return (name for name in self.initializers if self._is_large(name))

    def fill(self, model: ModelProto) -> ModelProto:
        """A copy of the model that contains every weight."""
        whole = ModelProto()
        whole.CopyFrom(model)
        for tensor in whole.graph.initializer:
            if self._is_large(tensor.name):
                tensor.ClearField("external_data")
                tensor.data_location = TensorProto.DEFAULT
                tensor.raw_data = self.array(tensor.name).tobytes()
        return whole

    def identity(self, name: str) -> Any:
        """A key that is equal for weights with the same memory and the same written dtype."""
        array, dtype = self.initializers[name]
        return array.__array_interface__["data"], array.dtype.str, array.shape, array.strides, dtype.str

    def size(self, name: str) -> int:
        """Bytes of a weight as written."""
        array, dtype = self.initializers[name]
        return array.size * dtype.itemsize

    def _tensor(self, name: str) -> TensorProto:
        if not self._is_large(name):
            return numpy_helper.from_array(self.array(name), name)
        array, dtype = self.initializers[name]
        tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(dtype))
        _place(tensor, OUTSIDE, 0, self.size(name))
        return tensor

    def _is_large(self, name: str) -> bool:
        return self.size(name) >= LARGE


class DataFile:
    """A file with the large weights of one or several models, each aligned.

    Weights that share memory and written dtype are stored once.
    """

    def __init__(self, models: Sequence[Weights]) -> None:
        self._blocks: dict[int, tuple[Weights, str]] = {}
        self._offsets: dict[Any, int] = {}
        end = 0
        for weights in models:
            for name in weights.large():
                if (key := weights.identity(name)) not in self._offsets:
                    self._offsets[key] = offset = -(-end // ALIGNMENT) * ALIGNMENT
                    self._blocks[offset] = weights, name
                    end = offset + weights.size(name)

    def refer(self, model: ModelProto, weights: Weights, location: str) -> ModelProto:
        """A copy of one of the models that refers to the data file `location` for its large weights."""
        referring = ModelProto()
        referring.CopyFrom(model)
        large = set(weights.large())
        for tensor in referring.graph.initializer:
            if tensor.name in large:
                offset = self._offsets[weights.identity(tensor.name)]
                _place(tensor, location, offset, weights.size(tensor.name))
        return referring

    def write(self, file: BinaryIO) -> None:
        """Write the file, with one weight at a time in memory."""
        for piece in self._pieces():
            file.write(piece)

    def sha256(self) -> str:
        """The SHA-256 of the file in hexadecimal."""
        digest = hashlib.sha256()
        for piece in self._pieces():
            digest.update(piece)
        return digest.hexdigest()

    def _pieces(self) -> Iterator[memoryview]:
        end = 0
        for offset, (weights, name) in self._blocks.items():
            yield memoryview(bytes(offset - end))
            yield weights.array(name).reshape(-1).view(np.uint8).data
            end = offset + weights.size(name)


def _place(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
