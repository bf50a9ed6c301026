"""A file in ONNX Runtime at one input: its constants, and every value between its input and its output."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx import ModelProto, ValueInfoProto

from flashir.backends.protocols import Array
from flashir.errors import ArtefactError, FlashirError, TargetError
from flashir_onnx.emit import Emitted
from flashir_onnx.raising.dataflow import Dataflow
from flashir_onnx.raising.foreign_model import ForeignModel
from flashir_onnx.runtime import onnxruntime
from flashir_onnx.session import Session, errors_of_runtime

FATAL = 4
"""The log level of runs, which fail at lengths that a file does not take."""


class Probe:
    """A session of a file whose every value can be read.

    Raises ArtefactError if ONNX Runtime rejects the file.
    """

    def __init__(self, foreign: ForeignModel, flow: Dataflow) -> None:
        self.flow, self.path = flow, foreign.path
        self.weights = {name: array for name, (array, _) in foreign.weights.initializers.items()}
        model = ModelProto()
        model.CopyFrom(foreign.model)
        del model.graph.value_info[:]  # it may contradict the graph
        computed = [name for node in model.graph.node for name in node.output if name and name != flow.output]
        model.graph.output.extend(ValueInfoProto(name=name) for name in computed)
        self._silent = onnxruntime().RunOptions()
        self._silent.log_severity_level = FATAL
        self._silent.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._input = next(value.type.tensor_type for value in model.graph.input if value.name == flow.input)
        try:
            self._session = Session(Emitted(model, foreign.weights), bounded=True).runtime
        except FlashirError as error:
            raise ArtefactError(error.problems, where=str(self.path)) from None

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """The sizes of the input that the file fixes; None where any is allowed."""
        return tuple(size.dim_value or None for size in self._input.shape.dim)

    @property
    def takes_tokens(self) -> bool:
        """Whether the input holds token ids instead of features."""
        return "int" in str(self._session.get_inputs()[0].type)

    def run(self, x: Array, names: Iterable[str]) -> list[Array]:
        """The values of these names for an input. Raises TargetError if ONNX Runtime fails."""
        kind = np.int32 if "int32" in str(self._session.get_inputs()[0].type) else None
        feed = {self.flow.input: x if kind is None else x.astype(kind)}
        with errors_of_runtime(TargetError, "ONNX Runtime fails"):
            return list(self._session.run(list(names), feed, self._silent))

    def runs(self, x: Array) -> bool:
        """Whether the file takes such an input: many files take only the length that they were traced with."""
        try:
            self.run(x, [self.flow.output])
        except FlashirError:
            return False
        return True


class Observed:
    """The values of a file for one input, in float64, and its constants at the shape of this input."""

    def __init__(self, probe: Probe, x: Array) -> None:
        self._probe, self._x = probe, x
        self._values = {probe.flow.input: _wide(x)}

    def again(self) -> Observed:
        """The same with no values in memory yet."""
        return Observed(self._probe, self._x)

    def load(self, names: Iterable[str]) -> None:
        """Compute several values in one run."""
        missing = [
            name for name in dict.fromkeys(names) if name not in self._values and name not in self._probe.weights
        ]
        if missing:
            results = self._probe.run(self._x, missing)
            self._values |= {name: _wide(array) for name, array in zip(missing, results, strict=True)}

    def __getitem__(self, name: str) -> Array:
        if name in self._probe.weights:
            return _wide(self._probe.weights[name])
        self.load([name])
        return self._values[name]


def _wide(array: Array) -> Array:
    return np.asarray(array, np.float64) if array.dtype.kind == "f" else array
