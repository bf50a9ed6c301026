"""Sessions that keep their state in place between runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flashir.backends.protocols import Array
from flashir.errors import TargetError
from flashir.ir import Graph
from flashir_onnx.emit import emit
from flashir_onnx.in_place import allow_in_place
from flashir_onnx.session import NUMPY_TYPES, Session, errors_of_runtime


class Continued:
    """A session with I/O binding: arrays for the first inputs, and device state for the others. See `StepFn`.

    Args:
        session: a session of a model with several results. If it takes states, their outputs may overwrite them.
        device: the device of the session.
    """

    def __init__(self, session: Session, device: str) -> None:
        from flashir_onnx.runtime import onnxruntime

        self._ort = onnxruntime()
        self._session = session.runtime
        self._binding = self._session.io_binding()
        self._bound: dict[str, Any] = {}
        self._options = self._ort.RunOptions()
        self._device = device
        self._converted = session.converted
        self._inputs = self._session.get_inputs()
        self._outputs = [value.name for value in self._session.get_outputs()]
        if session.pools and len(self._inputs) < len(self._outputs):  # prefill: release the memory of a long prompt
            self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", f"{device}:0")

    def __call__(self, arrays: Sequence[Array], states: Sequence[Any]) -> tuple[Array, Sequence[Any]]:
        """Run once. Raises InputError, TargetError as for `Session`."""
        count, names = len(arrays), [value.name for value in self._inputs]
        states = states or self._zeros(count, len(arrays[0]))
        binding = self._binding if states else self._session.io_binding()  # whose results are those of its last run
        fed = self._converted(names[:count], arrays)  # must outlive the run, because binding does not copy
        for name, array in fed.items():
            binding.bind_cpu_input(name, array)
        for name, value in zip(names[count:], states, strict=True):
            self._bind(binding.bind_ortvalue_input, name, value)
        first, *others = self._outputs
        binding.bind_output(first)
        if states:
            for name, value in zip(others, states, strict=True):
                self._bind(binding.bind_ortvalue_output, name, value)
        else:
            for name in others:
                binding.bind_output(name, self._device)
        with errors_of_runtime(TargetError, "ONNX Runtime fails"):
            self._session.run_with_iobinding(binding, self._options)
        logits, *new_states = binding.get_outputs()
        return np.asarray(logits.numpy()), states or new_states

    def _zeros(self, first: int, rows: int) -> list[Any]:
        """The states before the first token, for the inputs from this one on."""
        return [
            self._ort.OrtValue.ortvalue_from_numpy(
                np.zeros([size if isinstance(size, int) else rows for size in value.shape], NUMPY_TYPES[value.type]),
                self._device,
            )
            for value in self._inputs[first:]
        ]

    def _bind(self, bind: Callable[[str, Any], None], name: str, value: Any) -> None:
        """Bind a value unless it is bound already. Binding a hundred states takes as long as a layer."""
        if self._bound.get(name) is not value:
            bind(name, value)
            self._bound[name] = value


def continued(graph: Graph, params: Mapping[str, Array], device: str) -> Continued:
    """Compile a lowered graph that keeps its state. The names of its results differ from those of its inputs."""
    states = len(graph.outputs) - 1
    takes_states = len(graph.inputs) > states
    results = ["first", *(f"kept_{number}" for number in range(states))]
    emitted = emit(graph, params, results, few_rows=takes_states)
    if takes_states:
        allow_in_place(emitted.model.graph, graph, states)
    return Continued(Session(emitted, device), device)
