"""Predict the candidates of a model on a target: settle, lower and price each.

The values come from `search_space`, the passes from `Lowering`, the price from `flashir.cost.estimate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flashir.backends.lowering import Lowering
from flashir.cost import Target, estimate
from flashir.errors import ParameterError, TargetError
from flashir.ir import Graph
from flashir.ir.settings import Settings
from flashir.machine.memory import gigabytes
from flashir.models.parameters import checked
from flashir.planning.candidates import Candidate, best
from flashir.planning.search_space import search_space
from flashir.planning.workload import Workload
from flashir.transforms.settle_choices import settle


@dataclass(frozen=True)
class Predictor:
    """Predicts the cost of every candidate of a model on a target.

    Args:
        target: the target record.
        workload: the workload.
        params: existing parameters, if any.
        portable: as for `plan`.
        policy: picks the values of one op while another is searched.
    """

    target: Target
    workload: Workload
    params: Mapping[str, Any] | None = None
    portable: bool = False
    policy: str = "quality"

    def __call__(self, graph: Graph) -> tuple[Candidate, ...]:
        """Return every candidate with its prediction. Raises TargetError if none fits the target's memory."""
        space = search_space(graph, self.workload.seq_len, self.params)
        if not all(space):
            if self.params is not None:
                checked(graph, self.params)  # reports parameters of another model one by one
            raise ParameterError(
                "the parameters fit none of the chunks that the model could have",
                hint="set the chunk that they were trained with",
            )
        predicted = self._predicted(graph, space)
        fitting = tuple(candidate for candidate in predicted if candidate.peak_bytes <= self.target.memory)
        if not fitting:
            least = min(candidate.peak_bytes for candidate in predicted)
            raise TargetError(
                f"the model needs at least {gigabytes(least)} on {self.target.name}, "
                f"which has {gigabytes(self.target.memory)}",
                hint=f"use a smaller {'chunk, ' if self._padded(predicted) else ''}batch or length, a smaller model, "
                "or more devices",
            )
        return fitting

    def _padded(self, predicted: Sequence[Candidate]) -> bool:
        """Whether every candidate pads the rows to a longer chunk."""
        return all((candidate.chunk or 0) > self.workload.seq_len for candidate in predicted)

    def _predicted(self, graph: Graph, space: Sequence[Sequence[Settings]]) -> list[Candidate]:
        """The candidates of a model, op by op.

        The cost of a model is the sum of its layers' costs, so the best values of one op do not depend on those of
        another. Each op is searched with the best values of the others; see docs/decisions/065.
        """
        current = Settings()
        for of_op in space:
            current |= of_op[0]
        known: dict[Settings, Candidate] = {}

        def sweep(of_op: Sequence[Settings]) -> list[Candidate]:
            combined = [current | own for own in of_op]
            known.update((settings, self.predict(graph, settings)) for settings in combined if settings not in known)
            return [known[settings] for settings in combined]

        if len(space) < 2:
            return sweep(space[0] if space else (Settings(),))
        for of_op in space:
            rows = sweep(of_op)
            current = best([row for row in rows if row.peak_bytes <= self.target.memory] or rows, self.policy).settings
        return list(dict.fromkeys(row for of_op in space for row in sweep(of_op)))

    def predict(self, graph: Graph, settings: Settings) -> Candidate:
        """Predict one candidate from its lowered graph."""
        settled = settle(graph, settings)
        lowered = self._lowering.run(settled)
        sizes = self.workload.sizes(settled, self.target.devices)
        cost = estimate(lowered, self.target, sizes, training=self.workload.training)
        return Candidate(settings, cost.ms, cost.peak_bytes, terms=cost.terms, lowered=lowered)

    @cached_property
    def _lowering(self) -> Lowering:
        return Lowering.of(self.target.name, check=False, portable=self.portable)
