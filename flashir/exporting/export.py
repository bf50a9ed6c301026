"""export: a model and its parameters as an artefact on disk, verified before it replaces what was there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from flashir.arguments import typed
from flashir.backends.decoding import decoding, lowered
from flashir.backends.protocols import Array, Batch, DecoderExporter, Exporter, Run, StepFn, Verified
from flashir.backends.registry import having
from flashir.backends.results import results_of
from flashir.errors import ArtefactError, TargetError, either, option
from flashir.execution.compile import Prepared, prepare
from flashir.exporting.quantise import TOLERANCE as GROWTH
from flashir.exporting.quantise import Comparison, Quantised
from flashir.files.atomic import UNFINISHED, writing
from flashir.generation.generate import longest
from flashir.generation.host_interface import hosted
from flashir.ir import DType, Graph
from flashir.models.checkpoint import TOKENIZER
from flashir.models.end_tokens import Reading
from flashir.models.tokenizer_file import Beside
from flashir.planning.extent import Extent
from flashir.planning.plan import Plan, compute_type
from flashir.planning.workload import Workload
from flashir.reference.compare import NARROW, TOLERANCE, Compared, enough, relative_error, sample_inputs
from flashir.reference.finite import FLOAT16_LARGEST, check_finite
from flashir.reference.interpreter import interpret
from flashir.transforms.derive_decoder import of_length
from flashir.transforms.one_document import OneDocument
from flashir.version import __version__

STEPS = 4  # of a decoder, in its check
PATIENCE = 5.0  # seconds; where a run in float16 takes longer, one on eight times the tokens is not tried
LISTED = 3  # files of a folder that a message names
CUT_SHORT = re.compile(rf"\..+{re.escape(UNFINISHED)}|model-[0-9a-f]{{12}}\.[a-z]+")
"""Names of what an export that was cut short may leave in a folder; the next export removes it, or writes it again."""
RANDOM = "random weights: the output is meaningless"
SEED = "flashir.seed"
"""In the metadata of an artefact: the seed of its parameters, where nobody gave any."""


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Args:
        path: the main file of the artefact.
        plan: the choices made, and why.
        checks: a line for each check that the artefact passed.
        notes: what a user of the artefact should know.
        quantised: what narrow weights cost, where there are any.
        files: all that was written, the main file first.
        compared: of the checks, those that compared results.
    """

    path: Path
    plan: Plan
    checks: tuple[str, ...]
    notes: tuple[str, ...]
    quantised: Quantised | None = None
    files: tuple[Path, ...] = ()
    compared: tuple[Compared, ...] = ()


@typed
def export(
    model: Graph,
    out: str | Path,
    target: str = "onnx:cpu",
    params: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    rechunk: bool = False,
    strict: bool = True,
    portable: bool = False,
    decode: bool = False,
    max_len: int | None = None,
    length: int | None = None,
    tokenizer: Path | None = None,
    reading: Reading | None = None,
    quantize: str | None = None,
    text: Iterable[Batch] | None = None,
    tolerance: float = GROWTH,
    force: bool = True,
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
        rechunk, strict: as for `compile`.
        portable: use nothing that only one runtime of the format has.
        decode: write what continues sequences too, `prefill` and `step`; see docs/decisions/051.
        max_len, length: of the decoder, as for `decoder`.
        tokenizer: the file of one, to be kept beside the artefact as tokenizer.json; its ends go into the metadata.
        reading: how training read texts with it, as `load_checkpoint` has it.
        quantize: write weights as `int8` or `float16`; see docs/decisions/052.
        text: what perplexity is measured on then, in rows; without any, text that the float model writes.
        tolerance: by what share perplexity may grow.
        force: write into a folder that is not empty: an artefact in it is replaced, other files stay. A program that
            names a folder means it; the command line asks for --force.
        choices: `batch`, `seq_len`, `policy`, `chunk`, `cumsum`, `dtype` as for `compile`.

    Raises:
        SettingError, TargetError, ParameterError: as `compile`, and as `decoding`; and where weights cannot be narrow,
            or there is no text to measure that on.
        ArtefactError: the folder is not empty, and `force` is False; or the artefact cannot be written or fails a
            check; the old one is whole.
    """
    check_folder(Path(out))
    if not force:
        check_free(Path(out))
    ready = prepare(model, target, params, seed=seed, rechunk=rechunk, strict=strict, portable=portable, **choices)
    comparison = None if quantize is None else Comparison(ready, target, quantize, text, tolerance)
    weights = "the exported weights" if params is not None else f"random weights (seed {seed})"
    check = _Check(ready, weights) if comparison is None else _NarrowCheck(ready, weights, comparison)
    if comparison is not None:
        ready = replace(ready, backend=comparison.backend)
    write = _decoder_writer(ready, target, max_len, length) if decode else _writer(ready, target)
    metadata = {"flashir.version": __version__, "flashir.plan": json.dumps(_choices_made(ready.plan))}
    if params is None:
        metadata[SEED] = str(seed)
    kept = None if tokenizer is None else Beside.of(tokenizer, reading)
    if kept is not None:
        metadata |= kept.metadata

    def commit() -> Path:
        if not force:
            check_free(Path(out))  # once more: another export may have come first
        return write(Path(out), metadata, check)

    path = commit() if kept is None else kept.put(Path(out), commit)
    found = ready.backend.verify(path) if isinstance(ready.backend, Exporter) else Verified(())
    cost = None if comparison is None else comparison.found
    files = (path, *found.beside, *(() if kept is None else (path.with_name(TOKENIZER),)))
    checks, compared = (*found.checks, *check.verdicts), tuple(check.compared)
    return Exported(path, ready.plan, checks, _notes(ready.plan), cost, files, compared)


def check_folder(out: Path) -> None:
    """Raises ArtefactError where there is something else in place of the folder."""
    if (out.exists() or out.is_symlink()) and not out.is_dir():
        raise ArtefactError("this is not a folder", where=str(out), hint="choose another name")


def check_free(out: Path) -> None:
    """Raises ArtefactError where the folder of an export holds anything but what an export cut short has left."""
    check_folder(out)
    with writing(out):
        names = sorted(each.name for each in out.iterdir()) if out.is_dir() else []
    names = [name for name in names if not CUT_SHORT.fullmatch(name)]
    if names:
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        raise ArtefactError(
            f"the folder is not empty: it holds {', '.join(names[:LISTED])}{more}",
            where=str(out),
            hint=f"{option('force')} replaces an exported model in it and keeps other files; or choose another folder",
        )


Writer = Callable[[Path, Mapping[str, str], "_Check"], Path]


def _writer(ready: Prepared, target: str) -> Writer:
    """Writes the model into a folder. Raises TargetError where the backend cannot."""
    found = ready.backend
    if not isinstance(found, Exporter):
        raise TargetError(f"the backend {found.name!r} cannot export", where=target)
    model = ready.plan.graph
    return lambda out, about, check: found.export(model, ready.lowered, ready.params, out, about, check)


def _decoder_writer(ready: Prepared, target: str, max_len: int | None, length: int | None) -> Writer:
    """Writes the model, prefill and step. Raises TargetError where the backend cannot, SettingError as `decoding`."""
    found, model = ready.backend, ready.plan.graph
    if not isinstance(found, DecoderExporter):
        raise TargetError(
            f"the backend {found.name!r} writes no decoder",
            where=target,
            hint=f"choose a target of {either(having(DecoderExporter))}; without an export, flashir.decoder continues "
            "a model on every backend",
        )
    made = hosted(decoding(model, max_len=max_len, length=length))
    graphs = replace(lowered(ready.lowering, made), max_len=longest(model, max_len))

    def write(out: Path, about: Mapping[str, str], check: _Check) -> Path:
        examine = _DecoderCheck(check, graphs.max_len, length)
        return found.export_decoder(model, ready.lowered, graphs, ready.params, out, about, examine)

    return write


class _Check:
    """Runs an artefact that is about to be committed against the float64 interpreter, on tokens of its own.

    They are as many as `enough` has it, or as many as the model takes.
    """

    def __init__(self, ready: Prepared, weights: str) -> None:
        self.model, self.params, self.weights = ready.plan.graph, ready.params, weights
        self.length = self.reached = Extent.of(self.model).tokens(enough(self.model))
        self.planned, self.dtype = ready.plan.seq_len, compute_type(self.model)
        self.limit = TOLERANCE[self.dtype]
        self.compared: list[Compared] = []
        self.verdicts: list[str] = []

    def __call__(self, run: Run) -> Array:
        """The logits wanted.

        Raises:
            ArtefactError: they differ by more than the compute type explains.
            ResultError: in float16, they are not finite at the length that was planned for.
        """
        wanted = interpret(self.model, self.params, *self.arrays())
        self.compare_all(run, wanted, "run")
        if self.dtype is DType.F16:
            self.stretch(run)
        return np.asarray(wanted[0])

    def compare_all(self, run: Run, wanted: Sequence[Array], what: str) -> None:
        """Compares every result of a run with the interpreter's. Raises as `compare`."""
        results = results_of(run, self.arrays())
        names = [f"{what}, {value.name}" if len(wanted) > 1 else what for value in self.model.outputs]
        for name, got, right in zip(names, results, wanted, strict=True):
            self.compare(got, right, name, "the float64 interpreter")

    def stretch(self, run: Run) -> None:
        """Run it on longer and longer texts, up to the length that was planned for: sums may leave the range."""
        for length in (self.planned // 64, self.planned // 8, self.planned):
            if length <= self.reached:
                continue
            start = perf_counter()
            for each in results_of(run, self.arrays(length)):
                check_finite(each, f"the results of the artefact on {length} tokens", hint=_out_of_range())
            self.reached = length
            if perf_counter() - start > PATIENCE:
                break
        rest = "" if self.reached >= self.planned else f"; {self.planned} were planned for, and take too long to try"
        self.verdicts.append(f"finite on {self.reached} tokens in float16{rest}")

    def continued(self, length: int | None) -> Array:
        """What the interpreter computes of tokens that a decoder continues.

        They are one document, which begins a sequence of a length, where the model divides by that.
        """
        model = OneDocument().apply(self.model)
        model = model if length is None else of_length(model, length)
        return interpret(model, self.params, self.arrays()[0])[0]

    def arrays(self, length: int | None = None) -> list[Array]:
        """What it is run on, as long as it takes, or of a length."""
        return sample_inputs(self.model, Workload(1, length or self.length).sizes(self.model))

    def compare(self, got: Array, wanted: Array, what: str, against: str, lengths: Sequence[int] = ()) -> None:
        """Adds what was compared, on rows of those lengths, else on its own. Raises ArtefactError, ResultError."""
        check_finite(got, f"the results of the artefact ({what})")
        error = relative_error(got, wanted)
        if not error <= self.limit:
            raise ArtefactError(
                f"the artefact differs from the interpreter by {error:.1e}, more than {self.limit:.0e}", where=what
            )
        batch, *rest = self.arrays()[0].shape
        rows = tuple(lengths) or tuple(rest[:1])
        self.compared.append(Compared(what, against, len(lengths) or batch, rows, self.weights, error, self.limit))
        self.verdicts.append(str(self.compared[-1]))


def _out_of_range() -> str:
    return (
        f"float16 ends at {FLOAT16_LARGEST:,}: {option('dtype', 'float32')}, or bfloat16 where the target has it, "
        f"computes further; or plan for shorter texts, {option('seq_len', 'N')}"
    )


class _NarrowCheck(_Check):
    """Runs the model as it is against the interpreter, and what has narrow weights against the model as it is."""

    def __init__(self, ready: Prepared, weights: str, comparison: Comparison) -> None:
        super().__init__(ready, weights)
        self.ready, self.comparison = ready, comparison

    def __call__(self, run: Run) -> Array:
        """The float model's logits. Raises ArtefactError as `_Check` and `Comparison`."""
        whole = self.ready.backend.compile(self.ready.lowered, self.ready.params, self.ready.backend.devices()[0])
        wanted = super().__call__(whole)
        self.comparison(whole, run)
        self.limit = NARROW.get(self.comparison.kind, NARROW["int8"])
        every = interpret(self.model, self.params, *self.arrays())
        self.compare_all(run, every, f"narrow weights ({self.comparison.kind})")
        return wanted


class _DecoderCheck:
    """Runs a model, its prefill and its step, each against the interpreter on the whole sequence.

    Args:
        check: of the model.
        limit: how long a sequence may become.
        length: what prefill and step divide by, where the model divides by the length; the interpreter then does too.
    """

    def __init__(self, check: _Check, limit: int | None, length: int | None) -> None:
        self.check, self.limit, self.length = check, limit, length
        check.length = min(check.length, limit or check.length)

    def __call__(self, run: Run, prefill: StepFn, step: StepFn) -> None:
        """Two rows of the same tokens, one prompt longer than the other. Raises ArtefactError as `_Check`."""
        wanted, (ids, *beside) = self.check(run), self.check.arrays()
        if beside or self.length is not None:
            wanted = self.check.continued(self.length)
        steps = min(STEPS, ids.shape[1] - 1)
        lengths = np.array([ids.shape[1] - steps, max(1, (ids.shape[1] - steps) // 2)])
        logits, states = prefill([np.repeat(ids[:, : lengths[0]], 2, axis=0), lengths], ())
        found, last = [logits], [lengths - 1]
        for number in range(steps):
            logits, states = step([ids[0, lengths + number]], states)
            found.append(logits)
            last.append(lengths + number)
        divided = "" if self.length is None else f", for sequences of {self.length},"
        what = f"prefill and {steps} steps of 2 prompts{divided}"
        against = "the float64 interpreter"
        self.check.compare(np.stack(found), wanted[0, np.stack(last)], what, against, [int(n) for n in lengths])
        if self.check.reached > self.check.length:
            self.stretch(prefill, step)

    def stretch(self, prefill: StepFn, step: StepFn) -> None:
        """A prompt as long as the model was run on, and a token after it. Raises ResultError as `_Check.stretch`."""
        length = min(self.check.reached, self.limit or self.check.reached)
        ids = self.check.arrays(length)[0]
        logits, states = prefill([ids[:, : length - 1], np.array([length - 1])], ())
        after, _ = step([ids[:, length - 1]], states)
        for what, each in (("prefill", logits), ("step", after)):
            check_finite(each, f"the logits of the {what} on {length} tokens", hint=_out_of_range())
        self.check.verdicts.append(f"prefill and step finite on {length} tokens in float16")


def _choices_made(made: Plan) -> dict[str, Any]:
    return {name: value for name, value in made.as_dict().items() if name not in ("candidates", "model")}


def divides_by_length(model: Graph) -> bool:
    """Whether a layer divides by the length of the whole sequence, so that a decoder must be told it."""
    return any(node.op == "gau" and node.attrs["qk_scale"] == "length" for node in model.walk())


def _notes(made: Plan) -> tuple[str, ...]:
    """What may surprise whoever runs the artefact."""
    if Extent.of(made.graph).length is not None or not divides_by_length(made.graph):
        return ()
    return (
        "qk_scale = length divides scores by the actual length (Code 6), which generalises badly to lengths that the "
        "model was not trained at; qk_scale = max_len or sqrt_key does not depend on it",
    )
