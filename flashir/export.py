"""export: a model and its parameters as an artefact on disk, verified before it replaces what was there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import flashir
from flashir.backend import Exporter, Run
from flashir.compiler import Prepared, prepare
from flashir.errors import ArtefactError, TargetError
from flashir.inputs import vocabulary
from flashir.interpreter import interpret
from flashir.ir import DType, Graph
from flashir.ir.types import LARGEST_SIZE
from flashir.planning import Plan, compute_type
from flashir.workload import Workload

SHORTEST_CHECK = 64  # tokens of the run against the interpreter, where there is neither a chunk nor a wide tile
TOLERANCE = {DType.F64: 1e-4, DType.F32: 1e-4, DType.F16: 2e-2, DType.BF16: 2e-2}


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Args:
        path: the main file of the artefact.
        plan: the choices made, and why.
        checks: a line for each check that the artefact passed.
        notes: what a user of the artefact should know.
    """

    path: Path
    plan: Plan
    checks: tuple[str, ...]
    notes: tuple[str, ...]


def export(
    model: Graph,
    out: str | Path,
    target: str = "onnx:cpu",
    params: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    rechunk: bool = False,
    portable: bool = False,
    **choices: Any,
) -> Exported:
    """Write a model for a target into the folder `out`.

    The artefact carries the IR text of the model and the choices made in its metadata. Before it replaces what was
    there, it is checked by the tools of its format, and run against the float64 interpreter.

    Args:
        model: any graph.
        out: the folder; made where it is missing.
        target: a backend that is installed and can export.
        params: by full name; without any, `init(model, seed)` once the chunk is chosen.
        seed: of the parameters, where there are none.
        rechunk: as for `compile`.
        portable: use nothing that only one runtime of the format has.
        choices: `batch`, `seq_len`, `policy`, `chunk`, `cumsum`, `dtype` as for `compile`.

    Raises:
        SettingError, TargetError, ParameterError: as `compile`.
        ArtefactError: the artefact cannot be written or fails a check; the old one is whole.
    """
    ready = prepare(model, target, params, seed=seed, rechunk=rechunk, portable=portable, **choices)
    if not isinstance(ready.backend, Exporter):
        raise TargetError(f"the backend {ready.backend.name!r} cannot export", where=target)
    check = _Check(ready)
    metadata = {"flashir.version": flashir.__version__, "flashir.plan": json.dumps(_choices_made(ready.plan))}
    path = ready.backend.export(ready.plan.graph, ready.lowered, ready.params, Path(out), metadata, check)
    return Exported(path, ready.plan, (*ready.backend.verify(path).checks, check.verdict), _notes(ready.plan))


class _Check:
    """Runs an artefact that is about to be committed against the float64 interpreter, on tokens of its own."""

    def __init__(self, ready: Prepared) -> None:
        self.ready = ready
        self.verdict = ""

    def __call__(self, run: Run) -> None:
        """Raises ArtefactError where they differ by more than the compute type explains."""
        model = self.ready.plan.graph
        length = min(enough(self.ready.plan.chunk, self.ready.plan.tile), _longest(model))
        arrays = sample_inputs(model, Workload(1, length).sizes(model))
        wanted = interpret(model, self.ready.params, *arrays)[0]
        error, limit = relative_error(run(arrays), wanted), TOLERANCE[compute_type(model)]
        if not error <= limit:
            raise ArtefactError(f"the artefact differs from the interpreter by {error:.1e}, more than {limit:.0e}")
        self.verdict = f"run against the float64 interpreter on {length} tokens: {error:.1e} off, {limit:.0e} allowed"


def enough(chunk: int | None, tile: int | None) -> int:
    """Tokens that a comparison with the interpreter wants: a second chunk, or tile, that has seen the first."""
    return max(chunk or SHORTEST_CHECK - 1, tile or 0) + 1


def _longest(model: Graph) -> int:
    """The longest sequence that positions and biases span; the `max_len` of an op with chunks bounds nothing."""
    spans = (node.attrs.get("max_len") for node in model.walk() if "chunk" not in node.attrs)
    return min((span for span in spans if isinstance(span, int)), default=LARGEST_SIZE)


def sample_inputs(model: Graph, sizes: Mapping[str, int], seed: int = 0) -> list[npt.NDArray[Any]]:
    """Inputs that fit a model: tokens of its vocabulary, segment ids that grow, normal numbers."""
    random = np.random.default_rng(seed)
    made: list[npt.NDArray[Any]] = []
    for value in model.inputs:
        shape = value.type.bind(sizes).sizes
        rows = vocabulary(model, value)
        if value.type.dtype.is_float:
            made.append(random.standard_normal(shape).astype(np.float32))
        elif rows is not None:
            made.append(random.integers(0, rows, shape))
        else:
            made.append(np.sort(random.integers(0, 3, shape), axis=-1))
    return made


def relative_error(got: Any, wanted: Any) -> float:
    """max |a - b| / max |b|; 0 for results without elements, and for infinities that are the same."""
    if got.shape != wanted.shape:
        return float("inf")
    if not wanted.size:
        return 0.0
    apart = np.subtract(got, wanted, out=np.zeros(wanted.shape), where=got != wanted)
    return float(np.max(np.abs(apart)) / max(np.max(np.abs(wanted)), 1e-300))


def _choices_made(made: Plan) -> dict[str, Any]:
    return {name: value for name, value in made.as_dict().items() if name not in ("candidates", "model")}


def _notes(made: Plan) -> tuple[str, ...]:
    """What may surprise whoever runs the artefact."""
    by_length = any(
        node.op == "gau" and node.attrs["qk_scale"] == "length" and not isinstance(node.output.type.shape[1], int)
        for node in made.graph.walk()
    )
    if not by_length:
        return ()
    return (
        "qk_scale = length divides scores by the actual length (Code 6), which generalises badly to lengths that the "
        "model was not trained at; qk_scale = max_len or sqrt_key does not depend on it",
    )
