"""Sessions: modules on a device, from and to NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch._dynamo.exc import TorchDynamoException

from flashir.backends.protocols import Array
from flashir.backends.results import check_count, single
from flashir.errors import InputError, TargetError
from flashir.ir import DType, Graph, Value
from flashir_torch.devices import device_of
from flashir_torch.emit import module
from flashir_torch.fusing import EAGER, fuse, fuses
from flashir_torch.types import TYPES


class Session:
    """A module with its parameters on a device. Arrays in the order of the inputs -> its single result.

    Args:
        call: the module.
        graph: a graph with the inputs of the module.
        device: the device to run on.
        whole: the dtype of integer inputs; None for that of the graph.
    """

    def __init__(
        self, call: Callable[..., Any], graph: Graph, device: torch.device, whole: torch.dtype | None = None
    ) -> None:
        self._call = call
        self._inputs, self._names = graph.inputs, [value.name for value in graph.inputs]
        self._device = device
        self._types = [input_type(value, whole) for value in graph.inputs]

    def __call__(self, arrays: Sequence[Array]) -> Array:
        """Run once. Raises the errors of `outputs`, and TargetError if the model has several results."""
        return single(self.outputs(arrays), "torch")

    def outputs(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Run once, and return every result; narrow floats are converted to float32.

        Raises:
            InputError: inputs are missing, of a wrong dtype, or rejected by PyTorch.
        """
        with torch.inference_mode():
            return tuple(_array(result) for result in self._results(arrays, ()))

    def continued(self, arrays: Sequence[Array], kept: Sequence[torch.Tensor]) -> tuple[Array, Sequence[torch.Tensor]]:
        """Run once with tensors as the last inputs. Returns the first result as an array, and the others as tensors.

        Without tensors the last inputs are zeros. Raises the InputError of `outputs`.
        """
        with torch.inference_mode():
            first, *others = self._results(arrays, kept or self._zeros(len(arrays), len(arrays[0])))
            return _array(first), others

    def resident(self, arrays: Sequence[Array]) -> Callable[[], tuple[torch.Tensor, ...]]:
        """A function that runs on these inputs, moved to the device beforehand, and waits. Raises InputError."""
        check_count(self._names, len(arrays), "torch")
        feed = tensors(self._inputs, arrays, self._types, self._device)

        def run() -> tuple[torch.Tensor, ...]:
            with torch.inference_mode():
                results = self._results((), feed)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            return results

        return run

    def _results(self, arrays: Sequence[Array], kept: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        count = len(arrays)
        check_count(self._names, count + len(kept), "torch")
        feed = tensors(self._inputs[:count], arrays, self._types[:count], self._device)
        try:
            result = self._call(*feed, *kept)
        except TorchDynamoException as error:
            raise TargetError(f"torch.compile fails: {error}", where="torch", hint=EAGER) from error
        except (RuntimeError, IndexError, AssertionError) as error:  # an exported program asserts
            raise InputError(f"PyTorch refuses the inputs: {error}", where="torch") from error
        return result if isinstance(result, tuple) else (result,)

    def _zeros(self, first: int, rows: int) -> list[torch.Tensor]:
        """Zeros for the inputs from this one on. Their only symbolic size is the number of rows."""
        shapes = [[n if isinstance(n, int) else rows for n in value.type.shape] for value in self._inputs[first:]]
        types = self._types[first:]
        return [torch.zeros(shape, dtype=dtype, device=self._device) for shape, dtype in zip(shapes, types)]


def input_type(value: Value, whole: torch.dtype | None) -> torch.dtype:
    """The dtype of an input; for an integer input `whole`, if it is given."""
    is_whole = value.type.dtype in (DType.I32, DType.I64)
    return whole if is_whole and whole is not None else TYPES[value.type.dtype]


def tensors(
    inputs: Sequence[Value], arrays: Sequence[Array], types: Sequence[torch.dtype], device: torch.device
) -> list[torch.Tensor]:
    """The inputs in these dtypes on the device. Raises InputError if the kind differs, as from float to int."""
    return [
        _tensor(value.name, np.asarray(array), dtype).to(device)
        for value, array, dtype in zip(inputs, arrays, types, strict=True)
    ]


def compiled(graph: Graph, params: Mapping[str, Array], device: str) -> Session:
    """Compile a lowered graph with its parameters on a device. Raises TargetError, ParameterError."""
    place = device_of(device)
    net = module(graph, params).requires_grad_(False).eval().to(place)
    if fuses(device):
        fuse(net)
    return Session(net, graph, place)


def _tensor(name: str, array: Array, dtype: torch.dtype) -> torch.Tensor:
    """The array in another dtype. Raises InputError if the kind differs, as from float to int."""
    whole, wanted_whole = array.dtype.kind in "iub", not dtype.is_floating_point
    if array.size and wanted_whole and not whole:
        raise InputError(f"{name} must hold {dtype} numbers, got {array.dtype}", where="torch")
    return torch.tensor(array, dtype=dtype)


def _array(result: torch.Tensor) -> Array:
    narrow = result.dtype in (torch.float16, torch.bfloat16)
    return np.asarray((result.float() if narrow else result).cpu().numpy())
