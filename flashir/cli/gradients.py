"""Compare the gradients of a model on targets with the float64 interpreter and with each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isnan
from typing import Any

import numpy as np

from flashir.backends.protocols import Gradients
from flashir.cli.meter import Step
from flashir.cli.parity import BUDGET, Row, cases, inputs
from flashir.errors import FlashirError
from flashir.execution.compile import Runnable
from flashir.execution.gradients import TOLERANCE, DirectionalDerivatives, differences
from flashir.planning.plan import compute_type

Case = tuple[int, int]
"""A batch and a length."""


@dataclass
class Comparison:
    """Compares the gradients of each target with those of the interpreter and of the first target.

    Args:
        params: parameters by full name.
        lengths: tokens per row; None for the longest that the interpreter can run twice per parameter in seconds.
        batch: rows.
        slopes: the derivatives of the interpreter by case, filled by `rows`.
        first: the first target and its gradients by case, filled by `rows`.
    """

    params: Mapping[str, Any]
    lengths: Sequence[int] | None
    batch: int
    slopes: dict[Case, DirectionalDerivatives] = field(default_factory=dict)
    first: dict[Case, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)

    def rows(self, run: Runnable, call: Gradients, step: Step) -> Iterator[Row]:
        """Yield the comparisons of one more target, each with its worst parameter."""
        limit = TOLERANCE[compute_type(run.model)]
        possible, _ = cases(run.plan, self.lengths, [self.batch], BUDGET / max(1, 2 * len(self.params)))
        for case in possible if self.lengths is not None else possible[-1:]:
            try:
                compared = list(self._compared(case, run, call, step))
            except FlashirError as error:
                yield Row(run.plan.target, *case, None, limit, "; ".join(error.problems), "gradients")
                continue
            for against, worst, parameter in compared:
                yield Row(run.plan.target, *case, worst, limit, "", "gradients", against, parameter)

    def _compared(self, case: Case, run: Runnable, call: Gradients, step: Step) -> Iterator[tuple[str, float, str]]:
        target = run.plan.target
        step(f"gradients on {target}", 0, len(self.params))
        arrays = inputs(run.model, *case)
        results = run(*arrays)
        first = results[0] if isinstance(results, tuple) else results
        weights = np.random.default_rng(case).standard_normal(first.shape).astype(np.float32)
        actual = call(arrays, weights)
        if case not in self.slopes:
            self.slopes[case] = DirectionalDerivatives(run.model, self.params, arrays, weights)
        errors = []
        for name, error in self.slopes[case].errors(actual):
            errors.append((name, error))
            step(f"gradients on {target}", len(errors), len(self.params))
        yield "interpreter", *_worst(errors)
        other, wanted = self.first.setdefault(case, (target, actual))
        if other != target:
            yield other, *_worst(differences(actual, wanted))


def _worst(errors: Iterable[tuple[str, float]]) -> tuple[float, str]:
    """The largest error and its parameter. NaN counts as the largest."""
    return max(((inf if isnan(error) else error, name) for name, error in errors), default=(0.0, ""))
