"""Sessions that keep their state in place between runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.errors import TargetError
from flashir.ir import Graph, Value
from flashir_onnx.emit import emit
from flashir_onnx.session import Session, errors_of_runtime

Array = npt.NDArray[Any]

RENEWING = frozenset(("put_rows", "add"))
"""Ops whose operators can write the result into the memory of their first operand."""


class Continued:
    """A session with I/O binding: arrays for the first inputs, and device state for the others. See `StepFn`.

    Args:
        session: a session of a model with several results.
        device: the device of the session.
        in_place: for each state, whether its successor may overwrite it; see `renewed`.
    """

    def __init__(self, session: Session, device: str, in_place: Sequence[bool] = ()) -> None:
        from flashir_onnx.runtime import onnxruntime

        ort = onnxruntime()

        self._in_place = in_place
        self._session = session.runtime
        self._binding = self._session.io_binding()
        self._bound: dict[str, Any] = {}
        self._options = ort.RunOptions()
        if session.pools and not any(in_place):  # prefill: release the memory of a long prompt
            self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", f"{device}:0")
        self._device = device
        self._converted = session.converted
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

    def __call__(self, arrays: Sequence[Array], states: Sequence[Any]) -> tuple[Array, list[Any]]:
        """Run once. Raises InputError, TargetError as for `Session`."""
        binding, count = self._binding, len(arrays)
        for name, array in self._converted(self._inputs[:count], arrays).items():
            binding.bind_cpu_input(name, array)
        for name, value in zip(self._inputs[count:], states, strict=True):
            self._bind(binding.bind_ortvalue_input, name, value)
        first, *others = self._outputs
        binding.bind_output(first)
        overwritten = {name: old for name, old, here in zip(others, states, self._in_place, strict=False) if here}
        for name in others:
            if name in overwritten:
                self._bind(binding.bind_ortvalue_output, name, overwritten[name])
            else:
                binding.bind_output(name, self._device)
        with errors_of_runtime(TargetError, "ONNX Runtime fails"):
            self._session.run_with_iobinding(binding, self._options)
        logits, *new_states = binding.get_outputs()
        return np.asarray(logits.numpy()), [
            overwritten.get(name, new) for name, new in zip(others, new_states, strict=True)
        ]

    def _bind(self, bind: Callable[[str, Any], None], name: str, value: Any) -> None:
        """Bind a value unless it is bound already. Binding a hundred states takes as long as a layer."""
        if self._bound.get(name) is not value:
            bind(name, value)
            self._bound[name] = value


def continued(graph: Graph, params: Mapping[str, Array], device: str) -> Continued:
    """Compile a lowered graph that keeps its state. The names of its results differ from those of its inputs."""
    names = ["first", *(f"kept_{number}" for number in range(len(graph.outputs) - 1))]
    return Continued(Session(emit(graph, params, names), device), device, renewed(graph))


def renewed(graph: Graph) -> tuple[bool, ...]:
    """For each result after the first, whether it may overwrite the corresponding input.

    It may if only the op that computes the result reads this input. Then no other op can read the new value instead of
    the old one, in any order of execution.
    """
    old, new = graph.inputs[1:], graph.outputs[1:]
    if [value.type for value in old] != [value.type for value in new]:
        return (False,) * len(new)
    readers = Counter(value for node in graph.nodes for value in set(node.operands))
    producers = graph.producers()

    def alone(before: Value, after: Value) -> bool:
        node = producers.get(after)
        return node is not None and node.op in RENEWING and node.operands[0] == before and readers[before] == 1

    return tuple(alone(*pair) and pair[0] not in graph.outputs for pair in zip(old, new, strict=True))
