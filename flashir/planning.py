"""plan: what chunk, tile and cumulative sum a model should have on a target, what it will take, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flashir.arguments import typed
from flashir.cost import Estimate, Target, estimate
from flashir.cost import target as find_target
from flashir.errors import ParameterError, SettingError, TargetError
from flashir.extent import Extent
from flashir.ir import DType, Graph
from flashir.ir.dims import plain
from flashir.ir.limits import LARGEST_SIZE
from flashir.ir.parameter_count import parameter_count
from flashir.lowering import Lowering
from flashir.memory import gigabytes
from flashir.parameters import fitted
from flashir.passes.base import Pass, Pipeline
from flashir.passes.choose import (
    STRATEGIES,
    Candidate,
    ChooseChunk,
    ChooseCumsum,
    ChooseTile,
    best,
    check_policy,
    choosers,
    reset,
    settled_chunks,
    sums_tokens,
)
from flashir.passes.dtype import COMPUTE_TYPES, SetDType
from flashir.tune.space import Choice, choices, misfits
from flashir.why import explain
from flashir.workload import Workload

UNLOCK = "--rechunk overrides the lock"


@dataclass(frozen=True)
class Plan:
    """The answer of `plan`.

    Args:
        graph: the model with every choice made.
        model: its name.
        target, batch, seq_len, training: what was asked.
        chunk: tokens a chunk; None where the model has none.
        cumsum: `scan`, `matmul` or `native`; None where nothing is summed up.
        tile: tokens of token-level linear attention that are computed together; None where the model has none.
        predicted_ms: milliseconds of one run, or training step, by the cost model; see `measured_ms`.
        peak_bytes: bytes of memory on one device.
        parameters: how many numbers the model learns.
        candidates: every choice that was considered, in the order of chunks.
        why: one sentence or two for people.
    """

    graph: Graph = field(repr=False)
    model: str
    target: str
    batch: int
    seq_len: int
    training: bool
    chunk: int | None
    cumsum: str | None
    tile: int | None
    predicted_ms: float
    peak_bytes: int
    parameters: int
    candidates: tuple[Candidate, ...]
    why: str

    @property
    def chosen(self) -> Candidate:
        """The candidate that was chosen, with what was measured of it."""
        return next(each for each in self.candidates if Choice.of(each) == Choice.of(self))

    @property
    def measured_ms(self) -> float | None:
        """Milliseconds as measured on this machine, at this very length; None where nothing was."""
        return self.chosen.measured_ms

    @property
    def measured_on(self) -> str | None:
        """The device that it was measured on, such as `AMD EPYC x2`; None where nothing was."""
        if self.measured_ms is None:
            return None
        from flashir.tune.place import where

        return where(find_target(self.target))["device"]

    def as_dict(self) -> dict[str, Any]:
        """The plan as the command line prints it with `--json`; `measured_ms` and `measured_on` only where it was."""
        measured = {"measured_ms": self.measured_ms, "measured_on": self.measured_on}
        measured = {name: value for name, value in measured.items() if value is not None}
        return {
            **{name: getattr(self, name) for name in ("model", "target", "batch", "seq_len", "training")},
            **_choice_dict(self),
            **measured,
            "parameters": self.parameters,
            "candidates": [_candidate_dict(each) for each in self.candidates],
            "why": self.why,
        }


@dataclass(frozen=True)
class Ranking:
    """Lists the candidates of a graph with what each takes: the `rank` of choose-chunk and its kin."""

    target: Target
    workload: Workload
    params: Mapping[str, Any] | None = None
    portable: bool = False

    def __call__(self, graph: Graph) -> tuple[Candidate, ...]:
        """Every candidate, predicted. Raises TargetError where none fits the memory of the target."""
        found = [self.predict(graph, choice) for choice in choices(graph, self.workload.seq_len, self.params)]
        if not found:
            raise ParameterError(
                "the parameters fit none of the chunks that the model could have",
                mend="set the chunk that they were trained with",
            )
        fitting = tuple(each for each in found if each.peak_bytes <= self.target.memory)
        if not fitting:
            least = min(each.peak_bytes for each in found)
            raise TargetError(
                f"the model needs at least {gigabytes(least)} on {self.target.name}, "
                f"which has {gigabytes(self.target.memory)}",
                mend="use a smaller batch or length, a smaller model, or more devices",
            )
        return fitting

    def predict(self, graph: Graph, choice: Choice) -> Candidate:
        """One candidate, from its lowered graph."""
        made = self.estimate(choice.settle(graph))
        return Candidate(choice.chunk, choice.cumsum, made.ms, made.peak_bytes, choice.tile, terms=made.terms)

    def estimate(self, settled: Graph) -> Estimate:
        """What a settled model takes."""
        lowered = self._lowering.run(settled)
        sizes = self.workload.sizes(settled, self.target.devices)
        return estimate(lowered, self.target, sizes, training=self.workload.training)

    def needed(self, settled: Graph, sizes: Mapping[str, int]) -> int:
        """Bytes of memory that a run with these sizes takes."""
        return estimate(self._lowering.run(settled), self.target, sizes).peak_bytes

    @cached_property
    def _lowering(self) -> Lowering:
        return Lowering.of(self.target.name, check=False, portable=self.portable)


@typed
def plan(
    model: Graph,
    target: str = "onnx:cpu",
    batch: int = 1,
    seq_len: int = 4096,
    training: bool = False,
    policy: str = "quality",
    *,
    chunk: int | None = None,
    cumsum: str | None = None,
    dtype: str | None = None,
    params: Mapping[str, Any] | None = None,
    measured: bool = True,
    portable: bool = False,
) -> Plan:
    """Choose what the model leaves open, from the cost model of the target, or from what `tune` measured there.

    Args:
        model: any graph; what it has settled stays so.
        target: such as `onnx:cpu` or `jax:tpu-v4x32`; its backend need not be installed.
        batch: rows, over all devices.
        seq_len: tokens a row. Where the model takes others only, by its types or its `max_len`, it is planned for
            those, and the plan says which.
        training: plan a training step instead of one run forward.
        policy: `quality`, the largest chunk whose time is within 5% of the fastest; or `fastest`.
        chunk, cumsum: settle these by hand; a cumulative sum without a tile is one over tokens, tile 1 (Table 10).
        dtype: the compute type: `float32`, `bfloat16` or `float16`; without one, the model's own.
        params: the parameters, where they exist already: then the chunk must be one that they fit.
        measured: use measurements of this machine where `tune` has stored them; they are of what is not portable.
        portable: plan for what `export` writes when it is told so.

    Raises:
        SettingError: a setting is out of range, or does not apply to this model.
        TargetError: the target is unknown, has no portable form, or the model does not fit its memory.
        ParameterError: the parameters fit no chunk.
    """
    workload, record = Workload(batch, seq_len, training), find_target(target)
    check_policy(policy)
    if params is not None:  # what has no name fits no choice, and is told when parameters are checked
        params = {name: array for name, array in fitted(model, params).items() if isinstance(name, str)}
    graph = by_hand(model, chunk, cumsum, dtype, locked=params is not None)
    workload = Extent.of(graph).fitted(workload)
    if chunk is not None and params is not None and (wrong := misfits(graph, params)):
        raise SettingError(wrong, where=f"chunk {chunk} is not that of the parameters", mend=UNLOCK)
    ranking = Ranking(record, workload, params, portable)
    candidates = ranking(graph)
    if measured and not portable:
        from flashir.tune.evidence import with_measurements

        candidates = with_measurements(candidates, graph, record, workload)

    return planned(model, graph, candidates, target, workload, policy)


def planned(
    model: Graph,
    graph: Graph,
    candidates: tuple[Candidate, ...],
    target: str,
    workload: Workload,
    policy: str,
    *,
    among: Sequence[Candidate] | None = None,
) -> Plan:
    """The plan that a policy makes of candidates.

    Args:
        model: as it was asked about.
        graph: the model with what was set by hand; its open choices are the candidates'.
        candidates: all of them.
        target, workload, policy: what was asked.
        among: those that may be chosen; without any, all.
    """
    eligible = candidates if among is None else among

    def rank(_: Graph) -> Sequence[Candidate]:
        return eligible

    choosing = (ChooseChunk, ChooseTile, ChooseCumsum)
    chosen = Pipeline([each(policy=policy, rank=rank) for each in choosing]).run(graph)
    found = best(eligible, policy)
    return Plan(
        graph=chosen,
        model=model.name,
        target=target,
        batch=workload.batch,
        seq_len=workload.seq_len,
        training=workload.training,
        chunk=found.chunk,
        cumsum=found.cumsum,
        tile=found.tile,
        predicted_ms=found.predicted_ms,
        peak_bytes=found.peak_bytes,
        parameters=parameter_count(chosen),
        candidates=candidates,
        why=explain(found, candidates, policy, tokens=any(map(sums_tokens, choosers(graph)))),
    )


def by_hand(graph: Graph, chunk: int | None, cumsum: str | None, dtype: str | None, *, locked: bool) -> Graph:
    """The graph with what a user set by hand.

    Raises:
        SettingError: a value is out of range, the model has nothing of the kind, or its chunk is locked.
    """
    settled, chunk = settled_chunks(graph), plain(chunk)
    problems = []
    whole = isinstance(chunk, int) and not isinstance(chunk, bool)
    if chunk is not None and not (whole and 1 <= chunk <= LARGEST_SIZE):
        problems.append(f"chunk must be a whole number from 1 to {LARGEST_SIZE}, got {chunk!r}")
    elif chunk is not None and not any("chunk" in node.attrs for node in choosers(graph)):
        problems.append(f"chunk cannot be set: @{graph.name} has no op with one")
    elif chunk is not None and locked and set(settled) - {chunk}:
        problems.append(
            f"chunk is locked to {', '.join(map(str, settled))}, got {chunk}: the parameters were made for it, "
            "and with another chunk they compute another function"
        )
    if cumsum is not None and cumsum not in STRATEGIES:
        problems.append(f"cumsum must be one of {', '.join(STRATEGIES)}, got {cumsum!r}")
    elif cumsum is not None and not any("cumsum" in node.attrs for node in choosers(graph)):
        problems.append(f"cumsum cannot be set: @{graph.name} has no op with one")
    if dtype is not None and str(dtype) not in COMPUTE_TYPES:
        problems.append(f"dtype must be one of {', '.join(COMPUTE_TYPES)}, got {dtype!r}")
    if problems:
        raise SettingError(problems, mend=UNLOCK if locked and settled else "")
    passes: list[Pass] = [] if dtype is None else [SetDType(str(dtype))]
    if chunk is not None:
        graph = graph if locked and settled else reset(graph, "chunk")
        passes.append(ChooseChunk(chunk))
    if cumsum is not None:
        graph = reset(graph, "cumsum")
        passes.append(ChooseCumsum(cumsum))
    return Pipeline(passes).run(graph)


def compute_type(graph: Graph) -> DType:
    """The element type that the model computes in."""
    floats = (v.type.dtype for node in graph.walk() for v in node.outputs if v.type.dtype.is_float)
    return next(floats, DType.F32)


def _choice_dict(made: Candidate | Plan) -> dict[str, Any]:
    """A choice and what it takes; `tile` only where there is one."""
    tile = {} if made.tile is None else {"tile": made.tile}
    chosen: dict[str, Any] = {"chunk": made.chunk, "cumsum": made.cumsum, **tile}
    return {**chosen, "predicted_ms": made.predicted_ms, "peak_bytes": made.peak_bytes}


def _candidate_dict(candidate: Candidate) -> dict[str, Any]:
    """A candidate; its measurement only where there is one."""
    measured = {name: getattr(candidate, name) for name in ("measured_ms", "spread_ms", "runs")}
    return _choice_dict(candidate) | {name: value for name, value in measured.items() if value is not None}
