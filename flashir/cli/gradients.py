"""Gradients of a model on targets, against the float64 interpreter and against each other."""

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
"""Rows and tokens."""


@dataclass
class Comparison:
    """Targets that run one model, each compared with the interpreter and with the first of them.

    Args:
        params: by full name.
        lengths: tokens a row; without any, as many as the interpreter does in seconds, which runs twice a parameter.
        batch: rows.
    """

    params: Mapping[str, Any]
    lengths: Sequence[int] | None
    batch: int
    slopes: dict[Case, DirectionalDerivatives] = field(default_factory=dict)
    first: dict[Case, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)

    def rows(self, run: Runnable, call: Gradients, step: Step) -> Iterator[Row]:
        """One more target: the worst parameter of each comparison."""
        limit = TOLERANCE[compute_type(run.model)]
        found, _ = cases(run.plan, self.lengths, [self.batch], BUDGET / max(1, 2 * len(self.params)))
        for case in found if self.lengths is not None else found[-1:]:
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
        weights = np.random.default_rng(case).standard_normal(run(*arrays).shape).astype(np.float32)
        got = call(arrays, weights)
        if case not in self.slopes:
            self.slopes[case] = DirectionalDerivatives(run.model, self.params, arrays, weights)
        errors = []
        for name, error in self.slopes[case].errors(got):
            errors.append((name, error))
            step(f"gradients on {target}", len(errors), len(self.params))
        yield "interpreter", *_worst(errors)
        other, wanted = self.first.setdefault(case, (target, got))
        if other != target:
            yield other, *_worst(differences(got, wanted))


def _worst(errors: Iterable[tuple[str, float]]) -> tuple[float, str]:
    """The largest error and whose it is; an error that is no number is the largest of all."""
    return max(((inf if isnan(error) else error, name) for name, error in errors), default=(0.0, ""))
