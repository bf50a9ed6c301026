"""Sessions that keep their results: states go from one run to the next where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.errors import TargetError
from flashir.ir import Graph
from flashir_onnx.emit import emit
from flashir_onnx.session import Session, errors_of_runtime

Array = npt.NDArray[Any]


class Continued:
    """A session by I/O binding. Arrays for the first inputs, and what is kept for the rest. See `flashir.backend`.

    Args:
        session: of a model with several results.
        device: where it runs.
    """

    def __init__(self, session: Session, device: str) -> None:
        self._session = session.runtime
        self._device = device
        self._converted = session.converted
        self._inputs = [each.name for each in self._session.get_inputs()]
        self._outputs = [each.name for each in self._session.get_outputs()]

    def __call__(self, arrays: Sequence[Array], kept: Sequence[Any]) -> tuple[Array, list[Any]]:
        """Run once. Raises InputError, TargetError as a session does."""
        binding = self._session.io_binding()
        for name, array in self._converted(self._inputs[: len(arrays)], arrays).items():
            binding.bind_cpu_input(name, array)
        for name, value in zip(self._inputs[len(arrays) :], kept, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.bind_output(self._outputs[0])
        for name in self._outputs[1:]:
            binding.bind_output(name, self._device)
        with errors_of_runtime(TargetError, "ONNX Runtime fails"):
            self._session.run_with_iobinding(binding)
        first, *others = binding.get_outputs()
        return np.asarray(first.numpy()), others


def continued(graph: Graph, params: Mapping[str, Array], device: str) -> Continued:
    """A lowered graph that keeps its results, which have names apart from those of the inputs."""
    names = ["first", *(f"kept_{number}" for number in range(len(graph.outputs) - 1))]
    return Continued(Session(emit(graph, params, names), device), device)
