"""Parity: a model on a target against the float64 interpreter, at the lengths where chunks begin and end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from flashir.cli.meter import Step
from flashir.errors import InputError
from flashir.execution.compile import Runnable
from flashir.ir import Graph
from flashir.planning.extent import Extent
from flashir.planning.plan import Plan
from flashir.planning.workload import Workload
from flashir.reference.compare import sample_inputs, worst_error
from flashir.reference.finite import check_finite
from flashir.reference.interpreter import interpret

NO_CHUNK = 64  # what stands in for the chunk of a model without one, where its tile is no longer
BUDGET = 2e11  # arithmetic of the interpreter, a few seconds of it: lengths beyond are left out


@dataclass(frozen=True)
class Row:
    """One comparison: a batch and a length on a target; `problem` where it could not be made.

    `what` is `values` or `gradients`, `against` the interpreter or another target, `parameter` that of the worst
    gradient.
    """

    target: str
    batch: int
    length: int
    error: float | None
    limit: float
    problem: str = ""
    what: str = "values"
    against: str = "interpreter"
    parameter: str = ""

    def __post_init__(self) -> None:
        if self.error is not None and not isfinite(self.error):
            object.__setattr__(self, "error", None)
            object.__setattr__(self, "problem", self.problem or "the results are not finite, or of another shape")

    @property
    def ok(self) -> bool:
        """Whether both computed the same."""
        return self.error is not None and self.error <= self.limit

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        made: dict[str, Any] = {"target": self.target, "what": self.what, "against": self.against, "batch": self.batch}
        made |= {"length": self.length, "relative_error": self.error, "tolerance": self.limit, "ok": self.ok}
        optional = {"problem": self.problem, "parameter": self.parameter}
        return {**made, **{name: text for name, text in optional.items() if text}}


def compare(
    run: Runnable, params: Mapping[str, Any], cases: Sequence[tuple[int, int]], limit: float, step: Step
) -> Iterator[Row]:
    """Each (batch, length), compared; `limit` is the largest error allowed."""
    from flashir.errors import FlashirError

    for done, (batch, length) in enumerate(cases):
        step(f"{run.plan.target}  {batch} x {length}", done, len(cases))
        try:
            arrays = inputs(run.model, batch, length)
            got = run(*arrays)
            for each in got if isinstance(got, tuple) else (got,):
                check_finite(each, "the results")
        except FlashirError as error:
            yield Row(run.plan.target, batch, length, None, limit, "; ".join(error.problems))
            continue
        yield Row(run.plan.target, batch, length, worst_error(got, interpret(run.model, params, *arrays)), limit)


def inputs(model: Graph, batch: int, length: int) -> list[Any]:
    """Tokens and whatever else a model takes, always the same; none where a size is 0.

    Raises:
        InputError: the types of the inputs fix another batch or length.
    """
    extent = Extent.of(model)
    if (extent.rows(batch), length if extent.length is None else extent.length) != (batch, length):
        raise InputError(f"the model takes {extent}")
    arrays = sample_inputs(model, Workload(max(1, batch), max(1, length)).sizes(model), seed=length)
    return [array[:batch, :length] if array.ndim > 1 else array for array in arrays]


def batches(model: Graph) -> list[int]:
    """The rows to compare with: one and two, or as many as the model takes."""
    return list(dict.fromkeys(Extent.of(model).rows(each) for each in (1, 2)))


def cases(
    plan: Plan, lengths: Sequence[int] | None, batches: Sequence[int], budget: float = BUDGET
) -> tuple[list[tuple[int, int]], list[int]]:
    """The (batch, length) pairs to compare, and the lengths that would take too long.

    Without `lengths`: one token, a chunk, one less, one more, and into the fourth chunk, as far as the model takes
    them, and as many as the interpreter does in a few seconds; the one that crosses into a second chunk always.
    """
    if lengths is not None:
        return [(batch, length) for length in lengths for batch in batches], []
    chunk = max(plan.chunk or NO_CHUNK, plan.tile or 0)
    extent = Extent.of(plan.graph)
    every = dict.fromkeys(extent.tokens(each) for each in (chunk + 1, 1, chunk, chunk - 1, 3 * chunk + 2) if each)
    spent = 0.0
    kept: list[tuple[int, int]] = []
    for batch in batches:
        for length in every:
            work = 2.0 * plan.parameters * batch * length
            if spent + work <= budget or not kept:
                spent += work
                kept.append((batch, length))
    left_out = sorted(set(every) - {length for _, length in kept})
    return sorted(set(kept), key=lambda case: (case[1], case[0])), left_out
