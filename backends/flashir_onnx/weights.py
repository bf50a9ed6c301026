"""The weights of an ONNX model, kept as arrays until they are written: inside the file, or in another beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from flashir.errors import ParameterError

LARGE = 1024
"""Bytes from which a weight may live outside of the file. Smaller ones may be shapes, which checkers need to see."""

LARGEST_INSIDE = 2**27
"""Bytes of weights up to which a model is one file, 128 MiB.

To write and check one file takes five times its weights in memory (protobuf's own copy, its serialised form, and what
the checkers parse), to write weights beside it takes the largest of them; protobuf itself ends at 2 GiB. Runtimes map a
file beside the model into memory, where weights inside are parsed and copied.
"""

ALIGNMENT = 4096  # so that a runtime can map each weight into memory
OUTSIDE = "weights"

Initializers = Mapping[str, tuple[npt.NDArray[Any], np.dtype[Any]]]


@dataclass(frozen=True)
class Weights:
    """Arrays by name, each with the type it is written in."""

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
        """A weight as it is written. Raises ParameterError where its numbers are too large for the type."""
        array, dtype = self.initializers[name]
        try:
            with np.errstate(over="raise"):
                return np.asarray(array, dtype, order="C")
        except FloatingPointError:
            largest = np.abs(array).max()
            raise ParameterError(
                f"{name} has numbers up to {largest:.3g}, too large for {dtype}", mend="use float32"
            ) from None

    def stand_ins(self) -> list[TensorProto]:
        """Every weight as a tensor: the small ones whole, of the large ones only name, type and shape."""
        return [self._tensor(name) for name in self.initializers]

    def large(self) -> Iterator[str]:
        """The names of the weights that stand outside."""
        return (name for name in self.initializers if self._is_large(name))

    def fill(self, model: ModelProto) -> ModelProto:
        """A copy of the model with every weight inside."""
        whole = ModelProto()
        whole.CopyFrom(model)
        for tensor in whole.graph.initializer:
            if self._is_large(tensor.name):
                tensor.ClearField("external_data")
                tensor.data_location = TensorProto.DEFAULT
                tensor.raw_data = self.array(tensor.name).tobytes()
        return whole

    def refer(self, model: ModelProto, location: str) -> ModelProto:
        """A copy of the model whose large weights are in the file `location` beside it, as `write` lays them out."""
        referring = ModelProto()
        referring.CopyFrom(model)
        offsets = self._offsets()
        for tensor in referring.graph.initializer:
            if self._is_large(tensor.name):
                _place(tensor, location, offsets[tensor.name], self._size(tensor.name))
        return referring

    def write(self, file: BinaryIO) -> None:
        """The large weights one after the other, each aligned; one at a time in memory."""
        for block in self._blocks():
            file.write(block)

    def sha256(self) -> str:
        """The digest of what `write` writes, in hexadecimal."""
        digest = hashlib.sha256()
        for block in self._blocks():
            digest.update(block)
        return digest.hexdigest()

    def _blocks(self) -> Iterator[memoryview]:
        end = 0
        for name, offset in self._offsets().items():
            yield memoryview(bytes(offset - end))
            yield self.array(name).reshape(-1).view(np.uint8).data
            end = offset + self._size(name)

    def _offsets(self) -> dict[str, int]:
        offsets, end = {}, 0
        for name in self.large():
            offsets[name] = -(-end // ALIGNMENT) * ALIGNMENT
            end = offsets[name] + self._size(name)
        return offsets

    def _tensor(self, name: str) -> TensorProto:
        if not self._is_large(name):
            return numpy_helper.from_array(self.array(name), name)
        array, dtype = self.initializers[name]
        tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(dtype))
        _place(tensor, OUTSIDE, 0, self._size(name))
        return tensor

    def _size(self, name: str) -> int:
        array, dtype = self.initializers[name]
        return array.size * dtype.itemsize

    def _is_large(self, name: str) -> bool:
        return self._size(name) >= LARGE


def _place(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
