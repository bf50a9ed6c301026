"""The checks that an artefact must pass before it is committed: its results against the float64 interpreter's.

The backend calls a check with the file that it has just written. It checks the format itself, as
`flashir_onnx.verify` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np

from flashir.backends.protocols import Array, Run, StepFn
from flashir.backends.results import results_of
from flashir.errors import ArtefactError, option
from flashir.execution.prepare import Prepared
from flashir.exporting.quantise import Comparison
from flashir.generation.calls import Calls, calls_of
from flashir.ir import DType
from flashir.planning.extent import Extent
from flashir.planning.plan import compute_type
from flashir.planning.workload import Workload
from flashir.reference.compare import NARROW, TOLERANCE, Compared, relative_error, sample_inputs, tokens_to_compare
from flashir.reference.finite import FLOAT16_LARGEST, check_finite
from flashir.reference.interpreter import interpret
from flashir.reference.narrowing import GROWTH, Narrowing
from flashir.transforms.one_document import OneDocument
from flashir.transforms.set_dtype import long_name
from flashir.transforms.whole_length import of_length

STEPS = 4  # decoder steps in a check
PATIENCE = 5.0  # seconds; if a float16 run takes longer, eight times the tokens are not tried


class Check:
    """Compares an artefact with the float64 interpreter before it is committed, on random tokens.

    Their number is given by `tokens_to_compare` and by the lengths that the model accepts.
    """

    def __init__(self, prepared: Prepared, weights: str, tolerance: float = GROWTH) -> None:
        self.tolerance = tolerance
        self.model, self.params, self.weights = prepared.plan.graph, prepared.params, weights
        self.length = self.reached = Extent.of(self.model).tokens(tokens_to_compare(self.model))
        self.planned, self.dtype = prepared.plan.seq_len, compute_type(self.model)
        self.limit = TOLERANCE[self.dtype]
        self.compared: list[Compared] = []
        self.verdicts: list[str] = []

    def __call__(self, run: Run) -> Array:
        """Run the checks, and return the logits of the interpreter.

        Raises:
            ArtefactError: the results differ by more than the limit of the dtype, or perplexity grows by more than the
                tolerance in a narrow one.
            ResultError: in float16, the results are not finite at the planned length.
        """
        wanted = interpret(self.model, self.params, *self.arrays())
        got = self.compare_all(run, wanted, "run")
        if self.dtype in (DType.BF16, DType.F16):
            self.compare_perplexity(got[0], np.asarray(wanted[0]))
        if self.dtype is DType.F16:
            self.check_longer(run)
        return np.asarray(wanted[0])

    def compare_perplexity(self, got: Array, wanted: Array) -> None:
        """Compare the logits of a narrow compute type with those of float64. Raises ArtefactError."""
        cost, dtype = Narrowing.between(self.model, wanted, got), long_name(self.dtype)
        if problem := cost.problem(self.tolerance):
            hint = f"use {option('dtype', 'float32')}, or a larger {option('tolerance', '')}"
            raise ArtefactError(problem, where=f"computed in {dtype}", hint=hint)
        if cost.growth is not None:
            self.verdicts.append(f"in {dtype} perplexity grows by {cost.growth:.1e} (limit {self.tolerance:g})")

    def compare_all(self, run: Run, wanted: Sequence[Array], what: str) -> Sequence[Array]:
        """Compare every result of a run with the interpreter's, and return them. Raises the errors of `compare`."""
        results = results_of(run, self.arrays())
        names = [f"{what}, {value.name}" if len(wanted) > 1 else what for value in self.model.outputs]
        for name, got, reference in zip(names, results, wanted, strict=True):
            self.compare(got, reference, name, "the float64 interpreter")
        return results

    def check_longer(self, run: Run) -> None:
        """Run on longer and longer texts up to the planned length, since sums may overflow float16."""
        for length in (self.planned // 64, self.planned // 8, self.planned):
            if length <= self.reached:
                continue
            start = perf_counter()
            for result in results_of(run, self.arrays(length)):
                check_finite(result, f"the results of the artefact on {length} tokens", hint=_out_of_range())
            self.reached = length
            if perf_counter() - start > PATIENCE:
                break
        rest = "" if self.reached >= self.planned else f"; the planned {self.planned} take too long to try"
        self.verdicts.append(f"finite on {self.reached} tokens in float16{rest}")

    def of_one_document(self, length: int | None) -> Array:
        """The interpreter's logits for the tokens of a decoder: a single document.

        For a model that divides by the length, `length` is that of the whole sequence.
        """
        model = OneDocument().apply(self.model)
        model = model if length is None else of_length(model, length)
        return interpret(model, self.params, self.arrays()[0])[0]

    def arrays(self, length: int | None = None) -> list[Array]:
        """The inputs of a run, by default of the length of this check."""
        return sample_inputs(self.model, Workload(1, length or self.length).sizes(self.model))

    def compare(self, got: Array, wanted: Array, what: str, against: str, lengths: Sequence[int] = ()) -> None:
        """Compare results and record the comparison. Raises ArtefactError, ResultError."""
        check_finite(got, f"the results of the artefact ({what})")
        error = relative_error(got, wanted)
        if not error <= self.limit:
            raise ArtefactError(
                f"the artefact differs from the interpreter by {error:.1e}, more than {self.limit:.0e}", where=what
            )
        batch, *rest = next((array.shape for array in self.arrays()), (1,))
        rows = tuple(lengths) or tuple(rest[:1])
        self.compared.append(Compared(what, against, len(lengths) or batch, rows, self.weights, error, self.limit))
        self.verdicts.append(str(self.compared[-1]))


def _out_of_range() -> str:
    return (
        f"float16 ends at {FLOAT16_LARGEST:,}: use {option('dtype', 'float32')}, or bfloat16 if the target has it; "
        f"or plan for shorter texts with {option('seq_len', 'N')}"
    )


class NarrowCheck(Check):
    """Compares the float model with the interpreter, and the quantised model with the float model."""

    def __init__(self, prepared: Prepared, weights: str, comparison: Comparison) -> None:
        super().__init__(prepared, weights)
        self.prepared, self.comparison = prepared, comparison

    def __call__(self, run: Run) -> Array:
        """Run the checks, and return the interpreter's logits. Raises the errors of `Check` and `Comparison`."""
        backend, lowered, params = self.prepared.backend, self.prepared.lowered, self.prepared.params
        whole = backend.compile(lowered, params, backend.devices()[0])
        wanted = super().__call__(whole)
        self.comparison(whole, run)
        self.limit = NARROW.get(self.comparison.kind, NARROW["int8"])
        reference = interpret(self.model, self.params, *self.arrays())
        self.compare_all(run, reference, f"narrow weights ({self.comparison.kind})")
        return wanted


class DecoderCheck:
    """Compares a model and its decoder with the interpreter on the whole sequence.

    Args:
        check: the check of the model.
        limit: the longest sequence.
        length: the sequence length, for a model that divides by it.
        piece: the number of tokens that the decoder reads at once.
        kept: the type in which its states hold keys and values; None for that of the model.
    """

    def __init__(
        self, check: Check, limit: int | None, length: int | None, piece: int, kept: DType | None = None
    ) -> None:
        self.check, self.limit, self.length, self.piece, self.kept = check, limit, length, piece, kept
        check.length = min(check.length, limit or check.length)

    def __call__(self, run: Run, *functions: StepFn) -> None:
        """Check two prompts of different lengths from the same tokens. Raises the errors of `Check`."""
        wanted, (ids, *beside) = self.check(run), self.check.arrays()
        if beside or self.length is not None:
            wanted = self.check.of_one_document(self.length)
        ids, calls = ids[0], calls_of(functions, self.piece)
        steps = min(STEPS, len(ids) - 1)
        lengths = np.array([len(ids) - steps, max(1, (len(ids) - steps) // 2)])
        logits, states = calls([ids[:n] for n in lengths], np.zeros(2, np.int64), ())
        got, last = [logits], [lengths - 1]
        for number in range(steps):
            logits, states = calls([ids[n : n + 1] for n in lengths + number], lengths + number, states)
            got.append(logits)
            last.append(lengths + number)
        divided = "" if self.length is None else f", for sequences of {self.length},"
        narrow = "" if self.kept is None else f", with states in {self.kept.value},"
        what = f"2 prompts and {steps} tokens after each{divided}{narrow} by the decoder"
        if self.kept is not None:
            self.check.limit = max(self.check.limit, TOLERANCE[self.kept])
        against = "the float64 interpreter"
        self.check.compare(np.stack(got), wanted[0, np.stack(last)], what, against, [int(n) for n in lengths])
        if self.check.reached > self.check.length:
            self.check_longer(calls)

    def check_longer(self, calls: Calls) -> None:
        """Check a prompt of the longest length tried, and a token after it, like `Check.check_longer`."""
        length = min(self.check.reached, self.limit or self.check.reached)
        (ids,) = self.check.arrays(length)[0]
        logits, states = calls([ids[:-1]], np.zeros(1, np.int64), ())
        after, _ = calls([ids[-1:]], np.full(1, length - 1), states)
        for what, result in (("prompt", logits), ("token after it", after)):
            check_finite(result, f"the logits of the decoder for a {what} on {length} tokens", hint=_out_of_range())
        self.check.verdicts.append(f"the decoder is finite on {length} tokens in float16")
