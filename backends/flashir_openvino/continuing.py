"""Compiled models that keep results in memory of OpenVINO until the next call, such as the states of a decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flashir_openvino.session import Port, converted, ports, with_errors

if TYPE_CHECKING:
    from openvino import CompiledModel, InferRequest, Tensor

Array = npt.NDArray[Any]


class States(Sequence[Any]):
    """The results of a call after the first, in the memory of its request. The next call releases the request."""

    def __init__(self, tensors: Sequence[Tensor], request: InferRequest, free: list[InferRequest]) -> None:
        self._tensors, self._request, self._free = tensors, request, free

    def __len__(self) -> int:
        return len(self._tensors)

    def __getitem__(self, place: Any) -> Any:
        return self._tensors[place]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._tensors)

    def release(self) -> None:
        """Let another call write over these results."""
        self._free.append(self._request)


class Continued:
    """Arrays for the first inputs and states for the others -> the first result, and the new states. See StepFn.

    A request writes its results into memory of its own. So the next call takes another request, and two requests serve
    a text of any length; several texts at once have two each.

    Args:
        model: the model.
        names: the names of its inputs in order; states come last.
    """

    def __init__(self, model: CompiledModel, names: Sequence[str]) -> None:
        self._model = model
        self._inputs = ports(model, names)
        self._results = len(model.outputs)
        self._free: list[InferRequest] = []

    def __call__(self, arrays: Sequence[Array], states: Sequence[Any]) -> tuple[Array, States]:
        """Run once. Raises InputError, TargetError as for `Session`."""
        from openvino import Tensor

        feed: dict[str, Any] = converted(self._inputs, arrays)
        request = self._free.pop() if self._free else self._model.create_infer_request()
        for name, array in feed.items():
            request.set_tensor(name, Tensor(array, shared_memory=True))
        kept = self._inputs[len(arrays) :]
        for (name, dtype), state in zip(kept, states or self._zeros(kept, len(arrays[0])), strict=True):
            if dtype is not None:
                request.set_tensor(name, state)
        with_errors(request.infer)
        if isinstance(states, States):
            states.release()
        first, *others = (request.get_output_tensor(place) for place in range(self._results))
        return np.array(first.data), States(others, request, self._free)

    def _zeros(self, kept: Sequence[Port], rows: int) -> list[Tensor | None]:
        """States of zeros for so many rows, the only size that is not fixed; None for what nothing reads."""
        from openvino import Tensor

        def zeros(name: str, dtype: np.dtype[Any]) -> Tensor:
            sizes = self._model.input(name).partial_shape
            return Tensor(np.zeros([rows if size.is_dynamic else size.get_length() for size in sizes], dtype))

        return [None if dtype is None else zeros(name, dtype) for name, dtype in kept]
