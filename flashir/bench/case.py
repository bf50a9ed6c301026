"""Cases: what is measured, each planned, with the least time that its target could do it in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from flashir.backends.registry import backend_of
from flashir.bench.reason import reason
from flashir.bench.record import Row
from flashir.errors import FlashirError, TargetError, gathered
from flashir.execution.timed_step import trainable
from flashir.ir import Graph
from flashir.machine.device import available_device
from flashir.machine.targets import target as find_target
from flashir.ops import OPS
from flashir.planning.plan import by_hand, compute_type, plan
from flashir.planning.roofline import floor
from flashir.planning.workload import Workload
from flashir.transforms import specialise
from flashir.transforms.settle_choices import choosers

PROCESS_BYTES = 512 << 20
"""What a process takes with Python and a framework, beside its case."""


@dataclass(frozen=True)
class Grid:
    """Which cases: systems x targets x lengths, and chunks x strategies for systems that have those.

    Args:
        models: by the name they are shown under.
        targets: all at hand.
        lengths: tokens a row.
        batch: rows; without it, as many as make `tokens` a batch.
        tokens: of one batch, as 2^18 in Table 6.
        training: a training step instead of one run forward.
        chunks, cumsums: those to compare; without any, what the plan chooses.
        dtype: the compute type; without one, the model's own.
        policy: by which the plan chooses.
    """

    models: Mapping[str, Graph]
    targets: Sequence[str]
    lengths: Sequence[int]
    batch: int | None = 1
    tokens: int = 0
    training: bool = False
    chunks: Sequence[int] = ()
    cumsums: Sequence[str] = ()
    dtype: str | None = None
    policy: str = "quality"

    def rows_of(self, seq_len: int) -> int:
        """The batch at a length."""
        return self.batch if self.batch is not None else max(1, self.tokens // seq_len)

    def problems(self) -> list[str]:
        """All that is wrong, found before anything is run."""
        problems: list[str] = []
        for name in self.targets:
            with gathered(problems):
                check_target(name, training=self.training)
        for seq_len in self.lengths:
            with gathered(problems):
                Workload(self.rows_of(seq_len), seq_len)
            if self.batch is None and 0 < self.tokens < seq_len:
                problems.append(f"a batch of {self.tokens} tokens has no room for a row of {seq_len}")
        for what, values in (("chunk", self.chunks), ("cumsum", self.cumsums)):
            if values and self.models and not any(_has(model, what) for model in self.models.values()):
                problems.append(f"none of {', '.join(self.models)} has a {what} to set")
        for name, model in self.models.items():
            if self.training and len(model.outputs[0].type.shape) != 3:
                problems.append(f"{name} cannot be trained here: its result must be logits [b, t, v]")
            for chunk, cumsum in self.choices(model):
                with gathered(problems):
                    by_hand(model, {"chunk": chunk, "cumsum": cumsum}, self.dtype, locked=False)
        return list(dict.fromkeys(problems))

    def choices(self, model: Graph) -> Iterator[tuple[int | None, str | None]]:
        """Every chunk and strategy to set in a model by hand; None leaves it to the plan."""
        chunks = self.chunks if _has(model, "chunk") else ()
        cumsums = self.cumsums if _has(model, "cumsum") else ()
        yield from product(chunks or (None,), cumsums or (None,))

    def cases(self, told: Callable[[str, int, int], None] = lambda what, done, of: None) -> list[Case]:
        """All of them, planned, those of one length beside each other.

        Where two choices come to the same graph, as the strategies of a model that sums nothing up, it is one case.
        """
        asked = [
            (name, target, seq_len, *choice)
            for seq_len in self.lengths
            for target in self.targets
            for name, model in self.models.items()
            for choice in self.choices(model)
        ]
        made: dict[tuple[object, ...], Case] = {}
        for done, (name, target, seq_len, chunk, cumsum) in enumerate(asked):
            told(f"planning {name} on {target}, {seq_len} tokens", done, len(asked))
            case = self._case(name, target, seq_len, chunk, cumsum)
            made.setdefault((name, target, seq_len, case.row.chunk, case.row.cumsum, case.row.tile), case)
        return list(made.values())

    def _case(self, name: str, target: str, seq_len: int, chunk: int | None, cumsum: str | None) -> Case:
        model, batch = self.models[name], self.rows_of(seq_len)
        row = Row(name, target, batch, seq_len, self.training, chunk, cumsum)
        try:
            made = plan(
                model, target, batch, seq_len, self.training, self.policy, chunk=chunk, cumsum=cumsum, dtype=self.dtype
            )
            specialise(made.graph, Workload(batch, seq_len).sizes(made.graph))
        except FlashirError as error:  # it does not fit the memory of the target, or is too long for the model
            return Case(replace(row, left_out="; ".join(error.problems)), model)
        except Exception as error:  # a fault of ours, in one case of many
            return Case(replace(row, failed=reason(error)), model)
        record = find_target(target)
        floor_ms, bound = floor(made, record)
        row = replace(
            row,
            chunk=made.chunk,
            cumsum=made.cumsum,
            tile=made.tile,
            dtype=str(compute_type(made.graph)),
            parameters=made.parameters,
            predicted_ms=made.predicted_ms,
            predicted_bytes=made.peak_bytes,
            floor_ms=floor_ms,
            floor=bound,
        )
        return Case(row, made.graph)


@dataclass(frozen=True)
class Case:
    """A row to fill, and the model with its choices made."""

    row: Row
    graph: Graph

    @property
    def on_host(self) -> bool:
        """Whether it computes in the main memory."""
        return find_target(self.row.target).device == "cpu"

    @property
    def host_bytes(self) -> int:
        """Bytes of main memory that its process will take."""
        return PROCESS_BYTES + ((self.row.predicted_bytes or 0) if self.on_host else 4 * self.row.parameters)

    @property
    def card_bytes(self) -> int:
        """Bytes of an accelerator's memory that it will take."""
        return 0 if self.on_host else self.row.predicted_bytes or 0


def check_target(name: str, *, training: bool) -> None:
    """Raises TargetError where a target is unknown or not at hand, or cannot train where it should."""
    available_device(name)
    backend_of(name).versions()
    if find_target(name).devices > 1:
        raise TargetError(f"{name} cannot be measured: one device at a time is")
    if training:
        trainable(name)


def _has(model: Graph, what: str) -> bool:
    """Whether a model has chunks, or sums chunk states up in a way that can be chosen."""
    nodes = [node for node in choosers(model) if what in OPS[node.op].choices]
    return any(OPS[node.op].choices[what].candidates(node) for node in nodes)
