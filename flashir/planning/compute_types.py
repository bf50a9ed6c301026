"""The compute types that a user allows, and which of them a plan takes: the widest that is fast, or the fastest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from flashir.backends.protocols import HasTypes
from flashir.backends.registry import backend_names, backend_of
from flashir.cost import Target
from flashir.errors import SettingError, TargetError
from flashir.ir import DType, Graph
from flashir.machine.profile import CALIBRATED
from flashir.machine.targets import target as find_target
from flashir.models.parameters import init
from flashir.planning.candidates import QUALITY_SLACK
from flashir.planning.extent import Extent
from flashir.planning.workload import Workload
from flashir.reference.compare import sample_inputs, tokens_to_compare
from flashir.reference.interpreter import interpret, interpret_rounded
from flashir.reference.narrowing import GROWTH, Narrowing
from flashir.transforms.lower import Lower
from flashir.transforms.set_dtype import COMPUTE_TYPES, SetDType, computing_in

AUTO = "auto"
AUTOMATIC = ("float32", "bfloat16")
"""The types of `auto`. float16 has a short range, so a user must name it."""


@dataclass(frozen=True)
class TypeCandidate:
    """A compute type that the user allows.

    Args:
        dtype: the type.
        ms: milliseconds of the best plan in it, predicted or measured; None if there is none.
        cost: what it is expected to cost in accuracy; None for float32, and if it was left out before.
        left_out: why it cannot be chosen; empty if it can.
    """

    dtype: str
    ms: float | None = None
    cost: Narrowing | None = None
    left_out: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        cost = {"error": None, "growth": None} if self.cost is None else self.cost.as_dict()
        return {"dtype": self.dtype, "ms": self.ms, **cost, "left_out": self.left_out or None}


def allowed(dtype: str | None) -> tuple[str | None, ...]:
    """The types that a text names, the widest first: one, several with commas, or `auto`; None for None.

    Raises SettingError that lists every unknown one among several.
    """
    if dtype == AUTO:
        return AUTOMATIC
    names = [] if dtype is None else [name.strip() for name in str(dtype).split(",")]
    if len(names) < 2:
        return (dtype,)
    if wrong := [name for name in names if name not in COMPUTE_TYPES]:
        raise SettingError([f"dtype must be one of {', '.join(COMPUTE_TYPES)}, got {name!r}" for name in wrong])
    return tuple(name for name in COMPUTE_TYPES if name in names)


def check_tolerance(tolerance: float | None) -> None:
    """Raise SettingError for a tolerance that is no fraction."""
    if tolerance is not None and not 0 <= tolerance < inf:
        raise SettingError(f"tolerance must be a fraction from 0 on, such as {GROWTH}, got {tolerance}")


def fixed_type(model: Graph, dtype: str) -> str:
    """Why the text of a model does not allow a type; empty if it does."""
    try:
        computing_in(model, dtype)
    except SettingError as error:
        return "; ".join(error.problems)
    return ""


def check_type(target: str, dtype: DType) -> None:
    """Raise TargetError if the device of a target, which is of this machine, does not compute in a type."""
    backend = backend_of(target)
    if isinstance(backend, HasTypes):
        backend.check_types([dtype], find_target(target).device)


def refused(target: str, dtype: str) -> str:
    """Why a device of this machine does not compute in a type; empty if it does, or if it is of another machine."""
    record = find_target(target)
    if not record.is_here or record.backend not in backend_names():
        return ""
    try:
        check_type(target, DType.named(dtype))
    except TargetError as error:
        return "; ".join(error.problems)
    return ""


def unknown_rate(record: Target, dtype: str) -> str:
    """Why the rate of products in a type is not known of a target; empty if it is.

    The record of a processor has rates of the processor that it was made on, which may lack units that another has.
    """
    rate, measure = f"peak.{DType.named(dtype)}", f"`flashir calibrate {record.name}`"
    source = record.sources.get(rate, "")
    if dtype == COMPUTE_TYPES[0] or source.startswith(CALIBRATED):
        return ""
    if not record.is_here:
        return "" if source and "assumed" not in source else f"{record.name} has no {rate}"
    if record.sources.get("peak.f32", "").startswith(CALIBRATED):
        return f"{measure} could not measure {rate}"
    return f"{rate} was not measured on this machine, {measure} does"


def expected_cost(model: Graph, dtype: str, params: Mapping[str, Any] | None) -> Narrowing:
    """What a compute type will cost, by a run of the interpreter that rounds every number to it.

    Args:
        model: the settled model, in any type.
        dtype: `bfloat16` or `float16`.
        params: the parameters by full name; None for random ones.
    """
    wide, narrow = SetDType().apply(model), Lower().apply(SetDType(dtype).apply(model))
    tokens = Extent.of(model).tokens(tokens_to_compare(model))
    arrays = init(wide) if params is None else params
    inputs = sample_inputs(wide, Workload(1, tokens).sizes(wide))
    return Narrowing.between(wide, interpret(wide, arrays, *inputs)[0], interpret_rounded(narrow, arrays, *inputs)[0])


def preferred_type(candidates: Sequence[TypeCandidate], policy: str) -> TypeCandidate:
    """The type to take: by `quality` the widest within 5% of the fastest, by `fastest` the fastest.

    Raises TargetError that says for each type why it was left out, if all were.
    """
    timed = {candidate: candidate.ms for candidate in candidates if candidate.ms is not None and not candidate.left_out}
    if not timed:
        raise TargetError(
            [f"{candidate.dtype}: {candidate.left_out}" for candidate in candidates],
            where="none of the compute types that are allowed can be chosen",
            hint="allow float32 too, or a larger tolerance",
        )
    slack = 1.0 if policy == "fastest" else QUALITY_SLACK
    return next(candidate for candidate, ms in timed.items() if ms <= slack * min(timed.values()))


def why(chosen: TypeCandidate, candidates: Sequence[TypeCandidate]) -> str:
    """Sentences on the type that was chosen and on the others."""
    sentences = [f"It computes in {chosen.dtype}{'' if chosen.cost is None else f'; expected {chosen.cost}'}."]
    for other in candidates:
        if other.left_out:
            sentences.append(f"{other.dtype} is left out: {other.left_out}.")
        elif other is not chosen and other.ms is not None and chosen.ms is not None:
            sentences.append(f"{other.dtype} takes {other.ms:.3g} ms, against {chosen.ms:.3g} ms.")
    return " ".join(sentences)
