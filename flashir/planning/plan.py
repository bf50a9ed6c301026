"""plan: choose the chunk, tile and cumulative sum of a model for a target, predict its cost, and say why.

`Predictor` has the candidates and their costs, `preferred` takes one, `explain` compares it with the others, and
`settle` puts its values into the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flashir.arguments import typed
from flashir.backends.protocols import Remarking
from flashir.backends.registry import backend_names, backend_of
from flashir.errors import SettingError, TargetError, option, suggest
from flashir.ir import DType, Graph
from flashir.ir.dims import plain
from flashir.ir.graph import Attr, Auto
from flashir.ir.limits import LARGEST_SIZE
from flashir.ir.parameter_count import parameter_count
from flashir.ir.settings import Settings, SettingsViews, attribute_of
from flashir.machine.first_calibration import calibrate_first
from flashir.machine.targets import target as find_target
from flashir.models.parameters import fitted
from flashir.ops import OPS
from flashir.planning.candidates import Candidate, check_policy, preferred
from flashir.planning.compute_types import (
    TypeCandidate,
    allowed,
    check_tolerance,
    expected_cost,
    fixed_type,
    preferred_type,
    refused,
    unknown_rate,
    why,
)
from flashir.planning.explain import explain
from flashir.planning.extent import Extent
from flashir.planning.predict import Predictor
from flashir.planning.search_space import misfits
from flashir.planning.workload import Workload
from flashir.reference.narrowing import GROWTH
from flashir.transforms import check_sizes
from flashir.transforms.set_dtype import COMPUTE_TYPES, computing_in, long_name
from flashir.transforms.settle_choices import choice_names, choosers, locking, reset, settle, settled_values, slots


def _unlock_hint() -> str:
    return f"{option('rechunk')} overrides the lock"


@dataclass(frozen=True)
class Plan(SettingsViews):
    """The result of `plan`.

    Args:
        graph: the model with every choice settled.
        model: the name of the model.
        target, batch, seq_len, training: the workload.
        settings: the value of each choice; empty if the model has none.
        predicted_ms: predicted milliseconds of one run or training step; see also `measured_ms`.
        peak_bytes: predicted peak memory of one device, in bytes.
        parameters: the number of learned scalars.
        candidates: every candidate that was considered, in the order of the search space.
        why: an explanation in one or two sentences.
        types: the compute types among which one was chosen; empty if the user named one or none.
        lowered: the graph lowered for the target, not yet verified; None if planning did not lower it.
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
    types: tuple[TypeCandidate, ...] = ()
    lowered: Graph | None = field(default=None, repr=False, compare=False)

    @property
    def chosen(self) -> Candidate:
        """The chosen candidate, with its measurement if there is one."""
        return next(candidate for candidate in self.candidates if candidate.settings == self.settings)

    @property
    def dtype(self) -> str:
        """The compute dtype, such as `float32`."""
        return long_name(compute_type(self.graph))

    @property
    def measured_ms(self) -> float | None:
        """Milliseconds as measured on this machine at exactly this length; None if unmeasured."""
        return self.chosen.measured_ms

    @property
    def measured_on(self) -> str | None:
        """The device of the measurement, such as `AMD EPYC x2`; None if unmeasured."""
        if self.measured_ms is None:
            return None
        from flashir.planning.measurements.key import where

        return where(find_target(self.target))["device"]

    def as_dict(self) -> dict[str, Any]:
        """The plan as `--json` prints it. `measured_ms` and `measured_on` are present only if it was measured."""
        measured = {"measured_ms": self.measured_ms, "measured_on": self.measured_on}
        measured = {name: value for name, value in measured.items() if value is not None}
        return {
            **{name: getattr(self, name) for name in ("model", "target", "batch", "seq_len", "training")},
            **_choice_dict(self),
            **measured,
            "parameters": self.parameters,
            "candidates": [_candidate_dict(candidate) for candidate in self.candidates],
            "why": self.why,
            **({"dtype": self.dtype, "types": [own.as_dict() for own in self.types]} if self.types else {}),
        }


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
    tolerance: float | None = None,
    params: Mapping[str, Any] | None = None,
    strict: bool = True,
    measured: bool = True,
    portable: bool = False,
    **choices: Attr,
) -> Plan:
    """Settle the open choices of a model with the cost model of the target, or with what `tune` measured there.

    Args:
        model: any graph; settled choices stay as they are.
        target: such as `onnx:cpu` or `jax:tpu-v4x32`; its backend need not be installed.
        batch: rows over all devices.
        seq_len: tokens per row. If the types or the `max_len` of the model do not allow this length, the plan is made
            for one that they do allow, and says which.
        training: plan a training step instead of a forward run.
        policy: `quality`, the largest chunk whose time is within 5% of the fastest; or `fastest`.
        dtype: the compute dtype: `float32`, `bfloat16` or `float16`; None for the model's own. Of several with commas,
            or `auto` for float32 and bfloat16, the cost model takes one; see docs/decisions/081.
        tolerance: the largest relative growth of perplexity that is expected of a narrow type; None for 0.01 where the
            plan takes the type, and for any where the user names it.
        params: existing parameters; the chunk must then fit them.
        strict: whether those that the model does not have are refused; else they are left out.
        measured: use the measurements that `tune` stored on this machine. They do not apply to portable plans.
        portable: plan for a portable export; see `export`.
        choices: values set by hand, such as `chunk=256` or `cumsum="scan"`; None leaves a choice open.

    Raises:
        SettingError: a setting is out of range, or does not apply to this model.
        IRError: a size of the model is open, and no axis of an input determines it.
        TargetError: the target is unknown, has no portable form, or the model does not fit its memory; or a narrow type
            costs more than the tolerance, or none that is allowed can be chosen.
        ParameterError: the parameters fit no chunk.
    """
    calibrate_first(target)
    types = allowed(dtype)
    if tolerance is not None or len(types) > 1:
        check_tolerance(tolerance)

        def plan_in_type(name: str | None) -> Plan:
            unchanged: dict[str, Any] = {"params": params, "strict": strict, "measured": measured, "portable": portable}
            return plan(model, target, batch, seq_len, training, policy, dtype=name, **unchanged, **choices)  # type: ignore[arg-type]

        limit = GROWTH if tolerance is None else tolerance
        return in_best_type(model, target, types, plan_in_type, params, policy, limit)
    dtype = types[0]
    workload, record = Workload(batch, seq_len, training), find_target(target)
    check_policy(policy)
    check_sizes(model)
    if params is not None:  # `checked` reports keys that are not names
        params = {name: array for name, array in fitted(model, params, strict=strict).items() if isinstance(name, str)}
    graph = by_hand(model, choices, dtype, locked=params is not None)
    workload = Extent.of(graph).fitted(workload)
    by_user = {name: value for name, value in choices.items() if value is not None}
    if by_user and params is not None and (wrong := misfits(_opened(graph, by_user), by_user, params)):
        settings_text = " and ".join(f"{name} {value}" for name, value in by_user.items())
        raise SettingError(wrong, where=f"{settings_text} is not that of the parameters", hint=_unlock_hint())
    predictor = Predictor(record, workload, params, portable, policy)
    candidates = predictor(graph)
    if measured and not portable:
        from flashir.planning.measurements.correct import with_measurements

        candidates = with_measurements(candidates, graph, record, workload)

    return planned(model, graph, candidates, target, workload, policy)


def in_best_type(
    model: Graph,
    target: str,
    types: Sequence[str | None],
    plan_in_type: Callable[[str | None], Plan],
    params: Mapping[str, Any] | None,
    policy: str,
    tolerance: float,
) -> Plan:
    """The plan in the compute type that a policy prefers, among those that cost no more than the tolerance.

    Raises TargetError that says why each type was left out, if all were.
    """
    plans: dict[str, Plan] = {}
    considered = []
    for name in types:
        several = name is not None and len(types) > 1
        if several and (reason := fixed_type(model, str(name)) or refused(target, str(name))):
            considered.append(TypeCandidate(str(name), left_out=reason))
            continue
        in_type = plan_in_type(name)
        reason = unknown_rate(find_target(target), in_type.dtype) if several and in_type.measured_ms is None else ""
        is_wide = in_type.dtype == COMPUTE_TYPES[0]
        cost = None if reason or is_wide else expected_cost(in_type.graph, in_type.dtype, params)
        reason = reason or (cost.problem(tolerance) if cost else "")
        considered.append(TypeCandidate(in_type.dtype, in_type.chosen.ms, cost, reason))
        plans[in_type.dtype] = in_type
    chosen = preferred_type(considered, policy)
    best_plan = plans[chosen.dtype]
    return replace(best_plan, why=f"{best_plan.why} {why(chosen, considered)}", types=tuple(considered))


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
    """The plan for the candidate that a policy prefers.

    Args:
        model: the model as the user gave it.
        graph: the model with the choices set by hand; the candidates settle the others.
        candidates: all candidates.
        target, workload, policy: as for `plan`.
        among: the candidates that may be chosen; None for all.
    """
    chosen = preferred(candidates if among is None else among, policy)
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
        candidates=tuple(replace(candidate, lowered=None) for candidate in candidates),
        why=" ".join([explain(chosen, candidates, policy, slots(graph)), *_remarks(target, settled)]),
        lowered=chosen.lowered,
    )


def _remarks(target: str, settled: Graph) -> tuple[str, ...]:
    """What the backend of a target says of a settled model, and of a narrow type that the device lacks."""
    if target.partition(":")[0] not in backend_names():
        return ()
    try:
        backend = backend_of(target)
    except TargetError:
        return ()
    dtype = compute_type(settled)
    lacks = refused(target, long_name(dtype)) if dtype in (DType.BF16, DType.F16) else ""
    remarks = backend.remarks(settled) if isinstance(backend, Remarking) else ()
    return (*remarks, f"It cannot run here: {lacks}.") if lacks else remarks


def by_hand(graph: Graph, choices: Mapping[str, Attr], dtype: str | None, *, locked: bool) -> Graph:
    """Apply the settings of a user to a graph.

    Args:
        graph: the model.
        choices: values by name; None leaves a choice open.
        dtype: the compute dtype; None for the model's own.
        locked: parameters exist, so choices that change the function must keep their values.

    Raises:
        SettingError: a value is out of range, the model has no such choice, or the choice is locked.
    """
    by_user = {name: plain(value) for name, value in choices.items() if value is not None}
    problems = [problem for name, value in by_user.items() if (problem := _problem(graph, name, value, locked))]
    if dtype is not None and str(dtype) not in COMPUTE_TYPES:
        problems.append(f"dtype must be one of {', '.join(COMPUTE_TYPES)}, got {dtype!r}")
    if problems:
        raise SettingError(problems, hint=_unlock_hint() if locked and _locked_values(graph) else "")
    if dtype is not None:
        graph = computing_in(graph, str(dtype))
    for name, value in by_user.items():
        before = graph if locked and name in _locked_values(graph) else reset(graph, name)
        graph = settle(before, {name: value}, all_forced=False)
    return graph


def _problem(graph: Graph, name: str, value: Attr, locked: bool) -> str | None:
    """What is wrong with a value set by hand, or None."""
    if name not in choice_names():
        return unknown_choice(name)
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


def unknown_choice(name: str) -> str:
    """The problem of a setting that no op has."""
    return f"there is no argument or choice {name!r}{suggest(name, choice_names())}"


def _locked_values(graph: Graph) -> dict[str, tuple[Attr, ...]]:
    """The settled values of the choices that change the function of a graph."""
    names = dict.fromkeys(name for _, name in locking(graph))
    return {name: values for name in names if (values := settled_values(graph, name))}


def _opened(graph: Graph, names: Iterable[str]) -> Graph:
    """The graph with these choices set back to `auto`."""
    for name in names:
        graph = reset(graph, name)
    return graph


def compute_type(graph: Graph) -> DType:
    """The dtype that the model computes in."""
    floats = (v.type.dtype for node in graph.walk() for v in node.outputs if v.type.dtype.is_float)
    return next(floats, DType.F32)


def _choice_dict(candidate: Candidate | Plan) -> dict[str, Any]:
    """The choices and their cost. `chunk` and `cumsum` are always present, others if the model has them.

    `choices` is present if several ops have a choice of the same name, and lists all of them.
    """
    settings = candidate.settings
    names = dict.fromkeys(("chunk", "cumsum", *map(attribute_of, settings)))
    chosen: dict[str, Any] = {name: settings.value(name) for name in names}
    if any(name != attribute_of(name) for name in settings):
        chosen["choices"] = dict(settings)
    return {**chosen, "predicted_ms": candidate.predicted_ms, "peak_bytes": candidate.peak_bytes}


def _candidate_dict(candidate: Candidate) -> dict[str, Any]:
    """A candidate as a dict, with its measurement if there is one."""
    measured = {name: getattr(candidate, name) for name in ("measured_ms", "spread_ms", "runs")}
    return _choice_dict(candidate) | {name: value for name, value in measured.items() if value is not None}
