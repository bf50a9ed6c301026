"""Read an ONNX file, raise it, and compare the model with the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flashir.backends.protocols import MODEL_TEXT, Array
from flashir.errors import ArtefactError, FlashirError, counted
from flashir.files.foreign import guarded
from flashir.importing.compare import agree
from flashir.importing.converted import Converted
from flashir.ir import DType
from flashir.ops.layers.relative_bias import FARTHEST_BUCKET
from flashir.reference.compare import TOLERANCE
from flashir_onnx.raising.dataflow import HINT, dataflow
from flashir_onnx.raising.foreign_model import read_foreign
from flashir_onnx.raising.observed import Observed, Probe
from flashir_onnx.raising.stack import Matches, Raised, matched, raise_model
from flashir_onnx.raising.unit import Reading
from flashir_onnx.seal import parsed_file, properties

BATCH = 2
LENGTHS = (37, 64, 256, 960, 1024, 4096)
"""Lengths that are tried first. A file that was traced at a multiple of its chunk runs only at multiples of it."""

VOCABULARY = 2
"""Token ids of the first run, when the size of the vocabulary is unknown, are below this."""


def raised_file(path: Path, verify: bool, family: str) -> Converted | None:
    """The model of an ONNX file; None if flashir wrote the file. See OnnxFiles."""
    if MODEL_TEXT in properties(parsed_file(path)):
        return None
    try:
        with guarded(path, ArtefactError, "it is not recognised"):
            return _raised(path, verify, family)
    except FlashirError as error:
        if error.where:
            raise
        raise ArtefactError(error.problems, where=str(path), hint=HINT) from error


def _raised(path: Path, verify: bool, family: str) -> Converted:
    foreign = read_foreign(path)
    flow = dataflow(foreign)
    matches, head = matched(flow)
    probe = Probe(foreign, flow)
    inputs = Inputs(probe)
    length = inputs.critical(matches)
    reading = Reading(flow, Observed(probe, inputs.at(length)), length)
    raised = raise_model(reading, matches, head)
    notes = [f"recognised {_summary(raised)}", *raised.notes]
    if verify:
        notes += _verified(raised, inputs, length)
    return Converted(raised.graph, raised.params, family, _summary(raised), {}, tuple(notes))


def _summary(raised: Raised) -> str:
    ops = [layer.op for layer in raised.layers]
    return " and ".join(counted(ops.count(op), f"{op} layer") for op in dict.fromkeys(ops))


class Inputs:
    """Random inputs of a file, of lengths that it takes."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        rank = 2 if probe.takes_tokens else 3
        if len(probe.sizes) != rank or (rank == 3 and probe.sizes[2] is None):
            raise ArtefactError(f"its input must be token ids [b, t] or features [b, t, d], got sizes {probe.sizes}")
        self.batch, self.fixed = probe.sizes[0] or BATCH, probe.sizes[1]
        self.width = [size for size in probe.sizes[2:] if size is not None]
        self.vocab = self._vocabulary()

    def at(self, length: int) -> Array:
        """An input of a length."""
        random = np.random.default_rng(length)
        shape = (self.batch, length, *self.width)
        if self.probe.takes_tokens:
            return random.integers(0, self.vocab, shape)
        return random.standard_normal(shape).astype(np.float32)

    def runs(self, length: int) -> bool:
        """Whether the file takes this length."""
        return length in (self.fixed, length if self.fixed is None else None) and self.probe.runs(self.at(length))

    def critical(self, matches: list[Matches]) -> int:
        """A length with several chunks and a partial one, if the file takes it. Raises ArtefactError if none runs."""
        first = next((length for length in (self.fixed, *LENGTHS) if length and self.runs(length)), None)
        if first is None:
            tried = f"its own length {self.fixed}" if self.fixed else f"lengths {', '.join(map(str, LENGTHS))}"
            raise ArtefactError(f"ONNX Runtime does not run it at {tried}", where=str(self.probe.path))
        scores = [match.roles["scores"] for possible in matches for match in possible if match.op == "flash"]
        shapes = [array.shape for array in self.probe.run(self.at(first), scores)] if scores else []
        chunk = max((shape[-1] for shape in shapes if shape[-2:] == 2 * shape[-1:]), default=FARTHEST_BUCKET)
        return next((length for length in (2 * chunk + 7, 3 * chunk, 2 * chunk) if self.runs(length)), first)

    def _vocabulary(self) -> int:
        flow = self.probe.flow
        tables = [
            self.probe.weights[node.input[0]].shape[0]
            for node in flow.nodes.values()
            if node.op_type == "Gather" and node.input[0] in self.probe.weights and node.output[0] in flow.values
        ]
        return min(tables, default=VOCABULARY)


def _verified(raised: Raised, inputs: Inputs, length: int) -> list[str]:
    """A line on the comparison with the file. Raises ParameterError if they differ."""
    chunk = max((layer.attrs.get("chunk", 1) for layer in raised.layers), default=1)
    critical = {1, chunk - 1, chunk, chunk + 1, 2 * chunk + 7, length} - {0}
    lengths = sorted(length for length in critical if inputs.runs(length))
    flow = inputs.probe.flow

    def file(x: Array) -> Array:
        return np.asarray(inputs.probe.run(x, [flow.output])[0], np.float64)

    cases = [(length, [inputs.at(length)]) for length in lengths]
    line = agree(raised.graph, raised.params, cases, {"the file in ONNX Runtime": file}, TOLERANCE[DType.F32])
    left = sorted(critical - set(lengths))
    if not left:
        return [line]
    which = f"only at length {inputs.fixed}" if inputs.fixed else f"not at lengths {', '.join(map(str, left))}"
    return [line, f"the file itself runs {which}; the imported model runs at any"]
