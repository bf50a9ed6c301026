"""Cases: planned models to measure, each with the roofline bound of its target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from flashir.backends.registry import backend_of
from flashir.bench.reason import reason
from flashir.bench.record import Row
from flashir.errors import FlashirError, TargetError, gathered
from flashir.execution.trainer import trainable
from flashir.ir import DType, Graph
from flashir.machine.device import available_device
from flashir.machine.targets import target as find_target
from flashir.ops import OPS
from flashir.planning.compute_types import check_type
from flashir.planning.extent import check_takes
from flashir.planning.plan import by_hand, compute_type, plan
from flashir.planning.roofline import floor
from flashir.planning.workload import Workload
from flashir.transforms.settle_choices import choosers

PROCESS_BYTES = 512 << 20
"""The memory of a process with Python and a framework, without its case."""


@dataclass(frozen=True)
class Grid:
    """The cases of a benchmark: systems x targets x lengths, and chunks x strategies for systems with such choices.

    Args:
        models: the models by display name.
        targets: available targets.
        lengths: tokens per row.
        batch: rows; None for as many as make `tokens` per batch.
        tokens: tokens per batch, such as 2^18 in Table 6.
        training: measure a training step instead of a forward run.
        chunks, cumsums: the values to compare; empty for the choice of the plan.
        dtypes: the compute dtypes to compare; None is the model's own.
        policy: the policy of the plan.
    """

    models: Mapping[str, Graph]
    targets: Sequence[str]
    lengths: Sequence[int]
    batch: int | None = 1
    tokens: int = 0
    training: bool = False
    chunks: Sequence[int] = ()
    cumsums: Sequence[str] = ()
    dtypes: Sequence[str | None] = (None,)
    policy: str = "quality"

    def rows_of(self, seq_len: int) -> int:
        """The batch at a length."""
        return self.batch if self.batch is not None else max(1, self.tokens // seq_len)

    def problems(self) -> list[str]:
        """All problems of the grid, found before anything runs."""
        problems: list[str] = []
        for name in self.targets:
            try:
                check_target(name, training=self.training)
            except TargetError as error:
                problems += [f"{text}; {error.hint}" if error.hint else text for text in error.problems]
        for seq_len in self.lengths:
            with gathered(problems):
                Workload(self.rows_of(seq_len), seq_len)
            if self.batch is None and 0 < self.tokens < seq_len:
                problems.append(f"a batch of {self.tokens} tokens has no room for a row of {seq_len}")
        for choice, values in (("chunk", self.chunks), ("cumsum", self.cumsums)):
            if values and self.models and not any(_has(model, choice) for model in self.models.values()):
                problems.append(f"{', '.join(self.models)}: no model has a {choice} to set")
        for name, model in self.models.items():
            if self.training and len(model.outputs[0].type.shape) != 3:
                problems.append(f"{name} cannot be trained here: its result must be logits [b, t, v]")
            for (chunk, cumsum), dtype in product(self.choices(model), self.dtypes):
                with gathered(problems):
                    by_hand(model, {"chunk": chunk, "cumsum": cumsum}, dtype, locked=False)
        return list(dict.fromkeys(problems))

    def choices(self, model: Graph) -> Iterator[tuple[int | None, str | None]]:
        """Every chunk and strategy to set in a model; None leaves it to the plan."""
        chunks = self.chunks if _has(model, "chunk") else ()
        cumsums = self.cumsums if _has(model, "cumsum") else ()
        yield from product(chunks or (None,), cumsums or (None,))

    def cases(self, report: Callable[[str, int, int], None] = lambda work, done, total: None) -> list[Case]:
        """Plan all cases, ordered by length.

        Choices that give the same graph, such as the strategies of a model without a cumulative sum, are one case.
        """
        requests = [
            (name, target, seq_len, dtype, *choice)
            for seq_len in self.lengths
            for target in self.targets
            for dtype in self.dtypes
            for name, model in self.models.items()
            for choice in self.choices(model)
        ]
        distinct: dict[tuple[object, ...], Case] = {}
        for done, (name, target, seq_len, dtype, chunk, cumsum) in enumerate(requests):
            report(f"planning {name} on {target}, {seq_len} tokens", done, len(requests))
            row = (case := self._case(name, target, seq_len, dtype, chunk, cumsum)).row
            distinct.setdefault((name, target, seq_len, row.dtype, row.chunk, row.cumsum, row.tile), case)
        return list(distinct.values())

    def _case(
        self, name: str, target: str, seq_len: int, dtype: str | None, chunk: int | None, cumsum: str | None
    ) -> Case:
        model, batch = self.models[name], self.rows_of(seq_len)
        row = Row(name, target, batch, seq_len, self.training, chunk, cumsum)
        row = row if dtype is None else replace(row, dtype=str(DType.named(dtype)))
        try:
            planned = plan(
                model, target, batch, seq_len, self.training, self.policy, chunk=chunk, cumsum=cumsum, dtype=dtype
            )
            check_type(target, compute_type(planned.graph))
            check_takes(planned.graph, batch, seq_len)
        except FlashirError as error:  # does not fit in memory, or is too long for the model
            return Case(replace(row, left_out="; ".join(error.problems)), model)
        except Exception as error:  # a bug must not end the other cases
            return Case(replace(row, failed=reason(error)), model)
        record = find_target(target)
        floor_ms, bound = floor(planned, record)
        row = replace(
            row,
            chunk=planned.chunk,
            cumsum=planned.cumsum,
            tile=planned.tile,
            dtype=str(compute_type(planned.graph)),
            parameters=planned.parameters,
            predicted_ms=planned.predicted_ms,
            predicted_bytes=planned.peak_bytes,
            floor_ms=floor_ms,
            floor=bound,
        )
        return Case(row, planned.graph)


@dataclass(frozen=True)
class Case:
    """The row of a case to fill in, and its settled model."""

    row: Row
    graph: Graph

    @property
    def on_host(self) -> bool:
        """Whether it computes in main memory."""
        return find_target(self.row.target).device == "cpu"

    @property
    def host_bytes(self) -> int:
        """The main memory that its process needs, in bytes."""
        return PROCESS_BYTES + ((self.row.predicted_bytes or 0) if self.on_host else 4 * self.row.parameters)

    @property
    def card_bytes(self) -> int:
        """The accelerator memory that it needs, in bytes."""
        return 0 if self.on_host else self.row.predicted_bytes or 0


def check_target(name: str, *, training: bool) -> None:
    """Raise TargetError if a target is unknown or not available, or cannot train if `training`."""
    available_device(name)
    backend_of(name).versions()
    if find_target(name).devices > 1:
        raise TargetError(f"{name} cannot be measured: only a single device can be")
    if training:
        trainable(name)


def _has(model: Graph, choice: str) -> bool:
    """Whether a model has an op with this choice and candidates for it."""
    nodes = [node for node in choosers(model) if choice in OPS[node.op].choices]
    return any(OPS[node.op].choices[choice].candidates(node) for node in nodes)
