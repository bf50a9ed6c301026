"""plan: what chunk, tile and cumulative sum a model should have on a target, what it will take, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flashir.arguments import typed
from flashir.backends.lowering import Lowering
from flashir.cost import Estimate, Target, estimate
from flashir.errors import ParameterError, SettingError, TargetError, option, suggest
from flashir.ir import DType, Graph
from flashir.ir.dims import plain
from flashir.ir.graph import Attr, Auto
from flashir.ir.limits import LARGEST_SIZE
from flashir.ir.parameter_count import parameter_count
from flashir.machine.memory import gigabytes
from flashir.machine.targets import target as find_target
from flashir.models.parameters import checked, fitted
from flashir.ops import OPS
from flashir.planning.candidates import Candidate, best, check_policy
from flashir.planning.explain import explain
from flashir.planning.extent import Extent
from flashir.planning.search_space import misfits, search_space
from flashir.planning.workload import Workload
from flashir.transforms import check_sizes
from flashir.transforms.set_dtype import COMPUTE_TYPES, SetDType
from flashir.transforms.settle_choices import (
    Settings,
    SettingsViews,
    attribute_of,
    choice_names,
    choosers,
    locking,
    reset,
    settle,
    settled_values,
    slots,
)


def _unlock() -> str:
    return f"{option('rechunk')} overrides the lock"


@dataclass(frozen=True)
class Plan(SettingsViews):
    """The answer of `plan`.

    Args:
        graph: the model with every choice made.
        model: its name.
        target, batch, seq_len, training: what was asked.
        settings: the value of each choice; empty where the model has none.
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
    settings: Settings
    predicted_ms: float
    peak_bytes: int
    parameters: int
    candidates: tuple[Candidate, ...]
    why: str

    @property
    def chosen(self) -> Candidate:
        """The candidate that was chosen, with what was measured of it."""
        return next(each for each in self.candidates if each.settings == self.settings)

    @property
    def measured_ms(self) -> float | None:
        """Milliseconds as measured on this machine, at this very length; None where nothing was."""
        return self.chosen.measured_ms

    @property
    def measured_on(self) -> str | None:
        """The device that it was measured on, such as `AMD EPYC x2`; None where nothing was."""
        if self.measured_ms is None:
            return None
        from flashir.planning.measurements.key import where

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
    """Predicts what the candidates of a model take on a target.

    Args:
        target: the record.
        workload: what is planned for.
        params: the parameters, where they exist.
        portable: as for `plan`.
        policy: by which the values of one op are fixed while those of another are searched.
    """

    target: Target
    workload: Workload
    params: Mapping[str, Any] | None = None
    portable: bool = False
    policy: str = "quality"

    def __call__(self, graph: Graph) -> tuple[Candidate, ...]:
        """Every candidate, predicted. Raises TargetError where none fits the memory of the target."""
        space = search_space(graph, self.workload.seq_len, self.params)
        if not all(space):
            if self.params is not None:
                checked(graph, self.params)  # parameters of another model are told one by one
            raise ParameterError(
                "the parameters fit none of the chunks that the model could have",
                hint="set the chunk that they were trained with",
            )
        predicted = self._predicted(graph, space)
        fitting = tuple(each for each in predicted if each.peak_bytes <= self.target.memory)
        if not fitting:
            least = min(each.peak_bytes for each in predicted)
            raise TargetError(
                f"the model needs at least {gigabytes(least)} on {self.target.name}, "
                f"which has {gigabytes(self.target.memory)}",
                hint=f"use a smaller {'chunk, ' if self._padded(predicted) else ''}batch or length, a smaller model, "
                "or more devices",
            )
        return fitting

    def _padded(self, predicted: Sequence[Candidate]) -> bool:
        """Whether every chunk is longer than a row, which is padded to it."""
        return all((each.chunk or 0) > self.workload.seq_len for each in predicted)

    def _predicted(self, graph: Graph, space: Sequence[Sequence[Settings]]) -> list[Candidate]:
        """The candidates of a model, those of one op after those of another.

        The cost of a model is the sum of its layers' costs, so the best values of one op do not depend on those of
        another: each op is searched with the best of the others, see docs/decisions/065.
        """
        current = Settings()
        for of_op in space:
            current |= of_op[0]
        known: dict[Settings, Candidate] = {}

        def swept(of_op: Sequence[Settings]) -> list[Candidate]:
            every = [current | own for own in of_op]
            known.update((each, self.predict(graph, each)) for each in every if each not in known)
            return [known[each] for each in every]

        if len(space) < 2:
            return swept(space[0] if space else (Settings(),))
        for of_op in space:
            rows = swept(of_op)
            current = best([row for row in rows if row.peak_bytes <= self.target.memory] or rows, self.policy).settings
        return list(dict.fromkeys(row for of_op in space for row in swept(of_op)))

    def predict(self, graph: Graph, settings: Settings) -> Candidate:
        """One candidate, from its lowered graph."""
        found = self.estimate(settle(graph, settings))
        return Candidate(settings, found.ms, found.peak_bytes, terms=found.terms)

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
    dtype: str | None = None,
    params: Mapping[str, Any] | None = None,
    measured: bool = True,
    portable: bool = False,
    **choices: Attr,
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
        dtype: the compute type: `float32`, `bfloat16` or `float16`; without one, the model's own.
        params: the parameters, where they exist already: then the chunk must be one that they fit.
        measured: use measurements of this machine where `tune` has stored them; they are of what is not portable.
        portable: plan for what `export` writes when it is told so.
        choices: values set by hand, such as `chunk=256` or `cumsum="scan"`; None leaves a choice open.

    Raises:
        SettingError: a setting is out of range, or does not apply to this model.
        IRError: a size of the model is open, and no axis of an input tells it.
        TargetError: the target is unknown, has no portable form, or the model does not fit its memory.
        ParameterError: the parameters fit no chunk.
    """
    workload, record = Workload(batch, seq_len, training), find_target(target)
    check_policy(policy)
    check_sizes(model)
    if params is not None:  # what has no name fits no choice, and is told when parameters are checked
        params = {name: array for name, array in fitted(model, params).items() if isinstance(name, str)}
    graph = by_hand(model, choices, dtype, locked=params is not None)
    workload = Extent.of(graph).fitted(workload)
    given = {name: value for name, value in choices.items() if value is not None}
    if given and params is not None and (wrong := misfits(_opened(graph, given), given, params)):
        shown = " and ".join(f"{name} {value}" for name, value in given.items())
        raise SettingError(wrong, where=f"{shown} is not that of the parameters", hint=_unlock())
    ranking = Ranking(record, workload, params, portable, policy)
    candidates = ranking(graph)
    if measured and not portable:
        from flashir.planning.measurements.correct import with_measurements

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
    chosen = best(candidates if among is None else among, policy)
    settled = settle(graph, chosen.settings)
    return Plan(
        graph=settled,
        model=model.name,
        target=target,
        batch=workload.batch,
        seq_len=workload.seq_len,
        training=workload.training,
        settings=chosen.settings,
        predicted_ms=chosen.predicted_ms,
        peak_bytes=chosen.peak_bytes,
        parameters=parameter_count(settled),
        candidates=candidates,
        why=explain(chosen, candidates, policy, slots(graph)),
    )


def by_hand(graph: Graph, choices: Mapping[str, Attr], dtype: str | None, *, locked: bool) -> Graph:
    """The graph with what a user set by hand.

    Args:
        graph: the model.
        choices: values by name; None for what is left open.
        dtype: the compute type; None for the model's own.
        locked: parameters exist, so that choices which change the function cannot change.

    Raises:
        SettingError: a value is out of range, the model has nothing of the kind, or it is locked.
    """
    given = {name: plain(value) for name, value in choices.items() if value is not None}
    problems = [problem for name, value in given.items() if (problem := _problem(graph, name, value, locked))]
    if dtype is not None and str(dtype) not in COMPUTE_TYPES:
        problems.append(f"dtype must be one of {', '.join(COMPUTE_TYPES)}, got {dtype!r}")
    if problems:
        raise SettingError(problems, hint=_unlock() if locked and _locked_values(graph) else "")
    if dtype is not None:
        graph = SetDType(str(dtype)).apply(graph)
    for name, value in given.items():
        before = graph if locked and name in _locked_values(graph) else reset(graph, name)
        graph = settle(before, {name: value}, all_forced=False)
    return graph


def _problem(graph: Graph, name: str, value: Attr, locked: bool) -> str | None:
    """What is wrong with a value that was set by hand."""
    if name not in choice_names():
        return f"there is no argument or choice {name!r}{suggest(name, choice_names())}"
    nodes = [node for node in choosers(reset(graph, name)) if name in OPS[node.op].choices]
    if not nodes:
        return f"{name} cannot be set: @{graph.name} has no op with one"
    spec = OPS[nodes[0].op].attrs[name]
    if isinstance(value, Auto) or spec.problem(name, value):
        words = f"one of {', '.join(map(str, spec.choices))}"
        wanted = words if spec.choices else f"a whole number from {spec.least} to {LARGEST_SIZE}"
        return f"{name} must be {wanted}, got {value!r}"
    refusals = (OPS[node.op].choices[name].refusal(node, value) for node in nodes)
    if refusal := next(filter(None, refusals), None):
        return f"{name} {refusal}"
    before = _locked_values(graph).get(name, ())
    if locked and set(before) - {value}:
        return (
            f"{name} is locked to {', '.join(map(str, before))}, got {value}: the parameters were made for it, "
            f"and with another {name} they compute another function"
        )
    return None


def _locked_values(graph: Graph) -> dict[str, tuple[Attr, ...]]:
    """The values that stand in a graph of the choices that change its function."""
    names = dict.fromkeys(name for _, name in locking(graph))
    return {name: values for name in names if (values := settled_values(graph, name))}


def _opened(graph: Graph, given: Mapping[str, Attr]) -> Graph:
    """The graph with those choices `auto` again."""
    for name in given:
        graph = reset(graph, name)
    return graph


def compute_type(graph: Graph) -> DType:
    """The element type that the model computes in."""
    floats = (v.type.dtype for node in graph.walk() for v in node.outputs if v.type.dtype.is_float)
    return next(floats, DType.F32)


def _choice_dict(candidate: Candidate | Plan) -> dict[str, Any]:
    """The choices and what they take. `chunk` and `cumsum` are always there, others where the model has them.

    Where several ops have a choice of the same name, `choices` has them all.
    """
    settings = candidate.settings
    names = dict.fromkeys(("chunk", "cumsum", *map(attribute_of, settings)))
    chosen: dict[str, Any] = {name: settings.value(name) for name in names}
    if any(name != attribute_of(name) for name in settings):
        chosen["choices"] = dict(settings)
    return {**chosen, "predicted_ms": candidate.predicted_ms, "peak_bytes": candidate.peak_bytes}


def _candidate_dict(candidate: Candidate) -> dict[str, Any]:
    """A candidate; its measurement only where there is one."""
    measured = {name: getattr(candidate, name) for name in ("measured_ms", "spread_ms", "runs")}
    return _choice_dict(candidate) | {name: value for name, value in measured.items() if value is not None}
