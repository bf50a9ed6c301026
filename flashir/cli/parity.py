"""Compare a model on a target with the float64 interpreter, at the lengths where chunks begin and end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from flashir.cli.meter import Step
from flashir.execution.compile import Runnable
from flashir.ir import Graph
from flashir.planning.extent import Extent
from flashir.planning.plan import Plan
from flashir.planning.workload import Workload
from flashir.reference.compare import sample_inputs, worst_error
from flashir.reference.finite import check_finite
from flashir.reference.interpreter import interpret

NO_CHUNK = 64  # replaces the chunk of a model without one, unless its tile is longer
BUDGET = 2e11  # flops of the interpreter, a few seconds; longer lengths are left out


@dataclass(frozen=True)
class Row:
    """The comparison of one batch and length on a target.

    Args:
        target: the target.
        batch, length: rows, and tokens per row.
        error, limit: the relative error, None if there is no finite one, and its tolerance.
        problem: why the comparison failed, if it did.
        quantity: `values` or `gradients`.
        against: the interpreter, or another target.
        parameter: the parameter with the worst gradient.
    """

    target: str
    batch: int
    length: int
    error: float | None
    limit: float
    problem: str = ""
    quantity: str = "values"
    against: str = "interpreter"
    parameter: str = ""

    def __post_init__(self) -> None:
        if self.error is not None and not isfinite(self.error):
            object.__setattr__(self, "error", None)
            object.__setattr__(self, "problem", self.problem or "the results are not finite, or of another shape")

    @property
    def ok(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error is not None and self.error <= self.limit

    def as_dict(self) -> dict[str, Any]:
        """The JSON fields."""
        fields: dict[str, Any] = {
            "target": self.target,
            "what": self.quantity,
            "against": self.against,
            "batch": self.batch,
        }
        fields |= {"length": self.length, "relative_error": self.error, "tolerance": self.limit, "ok": self.ok}
        optional = {"problem": self.problem, "parameter": self.parameter}
        return {**fields, **{name: text for name, text in optional.items() if text}}


def compare(
    run: Runnable, params: Mapping[str, Any], cases: Sequence[tuple[int, int]], limit: float, step: Step
) -> Iterator[Row]:
    """Yield the comparison of each (batch, length) within the tolerance `limit`."""
    from flashir.errors import FlashirError

    for done, (batch, length) in enumerate(cases):
        step(f"{run.plan.target}  {batch} x {length}", done, len(cases))
        try:
            arrays = inputs(run.model, batch, length)
            results = run(*arrays)
            for result in results if isinstance(results, tuple) else (results,):
                check_finite(result, "the results")
        except FlashirError as error:
            yield Row(run.plan.target, batch, length, None, limit, "; ".join(error.problems))
            continue
        yield Row(run.plan.target, batch, length, worst_error(results, interpret(run.model, params, *arrays)), limit)


def inputs(model: Graph, batch: int, length: int) -> list[Any]:
    """The inputs of a model, always the same; empty if a size is 0.

    Raises:
        InputError: the types of the inputs fix another batch or length.
    """
    Extent.of(model).check(batch, length)
    arrays = sample_inputs(model, Workload(max(1, batch), max(1, length)).sizes(model), seed=length)
    return [array[:batch, :length] if array.ndim > 1 else array for array in arrays]


def batches(model: Graph) -> list[int]:
    """The batches to compare: 1 and 2, or the batch that the model fixes."""
    return list(dict.fromkeys(map(Extent.of(model).rows, (1, 2))))


def cases(
    plan: Plan, lengths: Sequence[int] | None, batches: Sequence[int], budget: float = BUDGET
) -> tuple[list[tuple[int, int]], list[int]]:
    """The (batch, length) pairs to compare, and the lengths that would take too long.

    By default the lengths are 1, C - 1, C, C + 1 and 3C + 2 for the chunk C, if the model and the budget allow them.
    C + 1, which crosses into a second chunk, is always included.
    """
    if lengths is not None:
        return [(batch, length) for length in lengths for batch in batches], []
    chunk = max(plan.chunk or NO_CHUNK, plan.tile or 0)
    extent = Extent.of(plan.graph)
    every = dict.fromkeys(extent.tokens(length) for length in (chunk + 1, 1, chunk, chunk - 1, 3 * chunk + 2) if length)
    spent = 0.0
    chosen: list[tuple[int, int]] = []
    for batch in batches:
        for length in every:
            work = 2.0 * plan.parameters * batch * length
            if spent + work <= budget or not chosen:
                spent += work
                chosen.append((batch, length))
    left_out = sorted(set(every) - {length for _, length in chosen})
    return sorted(set(chosen), key=lambda case: (case[1], case[0])), left_out
