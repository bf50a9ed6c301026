"""Modules that run on a device: numpy in, numpy out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch._dynamo.exc import TorchDynamoException

from flashir.errors import InputError, TargetError
from flashir.ir import DType, Graph, Value
from flashir_torch.devices import device_of
from flashir_torch.emit import module
from flashir_torch.fusing import EAGER, fuse, fuses
from flashir_torch.types import TYPES

Array = npt.NDArray[Any]


class Session:
    """A module that has its parameters on the device. Arrays in the order of the inputs -> its one result.

    Args:
        call: the module.
        graph: what the inputs are.
        device: where to run.
        whole: the type in which it takes whole numbers, where that is not the graph's.
    """

    def __init__(
        self, call: Callable[..., Any], graph: Graph, device: torch.device, whole: torch.dtype | None = None
    ) -> None:
        self._call = call
        self._inputs = graph.inputs
        self._device = device
        self._types = [input_type(value, whole) for value in graph.inputs]

    def __call__(self, arrays: Sequence[Array]) -> Array:
        """Run once. Raises as `outputs` does, and TargetError where the model has several results."""
        results = self.outputs(arrays)
        if len(results) != 1:
            raise TargetError(f"the model has {len(results)} results, wanted one", where="torch")
        return results[0]

    def outputs(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Run once; every result, those in narrow floating-point types as float32.

        Raises:
            InputError: inputs that are missing, of another kind, or that PyTorch refuses.
        """
        with torch.inference_mode():
            return tuple(_array(result) for result in self._results(arrays, ()))

    def continued(self, arrays: Sequence[Array], kept: Sequence[torch.Tensor]) -> tuple[Array, Sequence[torch.Tensor]]:
        """Run once, the last inputs being tensors already; the first result, and the others as tensors.

        Raises InputError as `outputs` does.
        """
        with torch.inference_mode():
            first, *others = self._results(arrays, kept)
            return _array(first), others

    def resident(self, arrays: Sequence[Array]) -> Callable[[], tuple[torch.Tensor, ...]]:
        """A run on these inputs, which lie on the device already; called, it waits for the end. Raises InputError."""
        self._check_count(len(arrays))
        given = tensors(self._inputs, arrays, self._types, self._device)

        def run() -> tuple[torch.Tensor, ...]:
            with torch.inference_mode():
                made = self._results((), given)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            return made

        return run

    def _results(self, arrays: Sequence[Array], kept: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        count = len(arrays)
        self._check_count(count + len(kept))
        given = tensors(self._inputs[:count], arrays, self._types[:count], self._device)
        try:
            made = self._call(*given, *kept)
        except TorchDynamoException as error:
            raise TargetError(f"torch.compile fails: {error}", where="torch", hint=EAGER) from error
        except (RuntimeError, IndexError, AssertionError) as error:  # an exported program asserts
            raise InputError(f"PyTorch refuses the inputs: {error}", where="torch") from error
        return made if isinstance(made, tuple) else (made,)

    def _check_count(self, count: int) -> None:
        if count != len(self._inputs):
            shown = ", ".join(f"{value.name}: {value.type}" for value in self._inputs)
            raise InputError(f"the model takes ({shown}), got {count} inputs", where="torch")


def input_type(value: Value, whole: torch.dtype | None) -> torch.dtype:
    """The type of an input; `whole` where it holds whole numbers and that is given."""
    is_whole = value.type.dtype in (DType.I32, DType.I64)
    return whole if is_whole and whole is not None else TYPES[value.type.dtype]


def tensors(
    inputs: Sequence[Value], arrays: Sequence[Array], types: Sequence[torch.dtype], device: torch.device
) -> list[torch.Tensor]:
    """The inputs in those types on the device. Raises InputError where that would change a kind, as 1.5 to 1."""
    return [
        _tensor(value.name, np.asarray(array), dtype).to(device)
        for value, array, dtype in zip(inputs, arrays, types, strict=True)
    ]


def compiled(graph: Graph, params: Mapping[str, Array], device: str) -> Session:
    """A lowered graph with its parameters on a device. Raises TargetError, ParameterError."""
    place = device_of(device)
    made = module(graph, params).requires_grad_(False).eval().to(place)
    if fuses(device):
        fuse(made)
    return Session(made, graph, place)


def _tensor(name: str, array: Array, dtype: torch.dtype) -> torch.Tensor:
    """The array in the type wanted. Raises InputError where that would change its kind, as 1.5 to 1."""
    whole, wanted_whole = array.dtype.kind in "iub", not dtype.is_floating_point
    if array.size and wanted_whole and not whole:
        raise InputError(f"{name} must hold {dtype} numbers, got {array.dtype}", where="torch")
    return torch.tensor(array, dtype=dtype)


def _array(result: torch.Tensor) -> Array:
    narrow = result.dtype in (torch.float16, torch.bfloat16)
    return np.asarray((result.float() if narrow else result).cpu().numpy())
