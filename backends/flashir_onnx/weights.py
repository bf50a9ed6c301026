"""The weights of an ONNX model, kept as arrays until they are written: inside the file, or beside it past 2 GB."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

LARGE = 1024  # bytes from which a weight may live outside of the file
LARGEST_FILE = 2**31 - 2**24  # protobuf stops at 2 GiB; the rest of the model needs a little
ALIGNMENT = 4096  # so that a runtime can map each weight into memory
OUTSIDE = "weights"

Initializers = Mapping[str, tuple[npt.NDArray[Any], np.dtype[Any]]]


@dataclass(frozen=True)
class Weights:
    """Arrays by name, each with the type it is written in."""

    initializers: Initializers

    @property
    def bytes(self) -> int:
        """Bytes of all weights as written."""
        return sum(array.size * dtype.itemsize for array, dtype in self.initializers.values())

    @property
    def fit_in_one_file(self) -> bool:
        """Whether the whole model can be one file."""
        return self.bytes <= LARGEST_FILE

    def array(self, name: str) -> npt.NDArray[Any]:
        """A weight as it is written."""
        array, dtype = self.initializers[name]
        return np.asarray(array, dtype, order="C")

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
        for name, offset in self._offsets().items():
            file.write(b"\0" * (offset - file.tell()))
            file.write(memoryview(self.array(name).reshape(-1)).cast("B"))

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
