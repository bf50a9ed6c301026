"""Compiled models that keep results until the next call, such as the states of a decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flashir.backends.protocols import Array, StepFn
from flashir_openvino.session import converted, ports, with_errors
from flashir_openvino.updates import Updates, updates_of

if TYPE_CHECKING:
    from openvino import CompiledModel, InferRequest, Model, Tensor

Compile = Callable[["Model"], "CompiledModel"]


def continued(model: Model, names: Sequence[str], compile_: Compile) -> StepFn:
    """The function of a model that may take states.

    Args:
        model: the model. Its results are one array, and the states after it.
        names: the names of its inputs in order; the states come last.
        compile_: compiles a model.
    """
    count = len(model.outputs) - 1
    if len(names) <= count:
        return Continued(compile_(model), names)
    updates = updates_of(model, names, count)
    return InPlace(updates, names, compile_) if updates.rows else Continued(compile_(model), names)


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
        states = states or zeros(self._model, [name for name, _ in kept], len(arrays[0]))
        for (name, dtype), state in zip(kept, states, strict=True):
            if dtype is not None:
                request.set_tensor(name, state if isinstance(state, Tensor) else Tensor(state, shared_memory=True))
        with_errors(request.infer)
        if isinstance(states, States):
            states.release()
        first, *others = (request.get_output_tensor(place) for place in range(self._results))
        return np.array(first.data), States(others, request, self._free)


class InPlace:
    """As `Continued`, with states in arrays, into which new rows are written after a call. See `Updates`."""

    def __init__(self, updates: Updates, names: Sequence[str], compile_: Compile) -> None:
        self._updates, self._names = updates, names
        self._model = compile_(updates.model)
        self._inputs = ports(self._model, names)
        self._sums = None if updates.sums is None else compile_(updates.sums.model)
        self._free: list[tuple[InferRequest, InferRequest | None]] = []

    def __call__(self, arrays: Sequence[Array], states: Sequence[Any]) -> tuple[Array, list[Array]]:
        """Run once. Raises InputError, TargetError as for `Session`."""
        from openvino import Tensor

        kept = self._names[len(arrays) :]
        own = [*states] if states else zeros(self._updates.model, kept, len(arrays[0]))
        own = [state if isinstance(state, np.ndarray) else np.array(state.data) for state in own]
        feed = {**converted(self._inputs, arrays), **dict(zip(kept, own, strict=True))}
        tensors = {name: Tensor(array, shared_memory=True) for name, array in feed.items()}
        request, sums = self._free.pop() if self._free else self._requests()
        for name, dtype in self._inputs:
            if dtype is not None:
                request.set_tensor(name, tensors[name])
        with_errors(request.infer)
        if sums is not None:
            self._close(request, sums, tensors, own)
        for number, places in self._updates.rows.items():
            at, rows = (request.get_output_tensor(place).data for place in places)
            own[number][tuple(np.moveaxis(at, -1, 0))] = rows
        for number, place in self._updates.whole.items():
            np.copyto(own[number], request.get_output_tensor(place).data)
        first = np.array(request.get_output_tensor(0).data)
        self._free.append((request, sums))
        return first, own

    def _requests(self) -> tuple[InferRequest, InferRequest | None]:
        return self._model.create_infer_request(), None if self._sums is None else self._sums.create_infer_request()

    def _close(self, request: InferRequest, sums: InferRequest, tensors: Any, own: Sequence[Array]) -> None:
        """Update the sums if a chunk closes."""
        about = self._updates.sums
        assert about is not None and self._sums is not None
        if not any(request.get_output_tensor(place).data.any() for place in about.closing):
            return
        for port in self._sums.inputs:
            name = port.get_any_name()
            sums.set_tensor(name, request.get_output_tensor(about.rows[name]) if name in about.rows else tensors[name])
        with_errors(sums.infer)
        for place, number in enumerate(about.numbers):
            np.copyto(own[number], sums.get_output_tensor(place).data)


def zeros(model: Model | CompiledModel, names: Sequence[str], rows: int) -> list[Array]:
    """States of zeros for so many rows, the only size that is not fixed; empty for what a model does not take."""
    ports = {name: port for port in model.inputs for name in port.get_names()}

    def of(port: Any) -> Array:
        sizes = [rows if size.is_dynamic else size.get_length() for size in port.partial_shape]
        return np.zeros(sizes, port.element_type.to_dtype())

    return [of(ports[name]) if name in ports else np.zeros(0) for name in names]
