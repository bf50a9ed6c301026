"""Random models on every backend: the results must be those of the float64 interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flashir import Runnable, compile, dumps, plan
from flashir.errors import FlashirError
from tests.campaign.agreement import Array, Reference, several
from tests.campaign.case import Case
from tests.campaign.compose import Drawn, drawn, is_open
from tests.campaign.verdict import WrongError

TARGETS = ("onnx:cpu", "onnx:cpu", "torch:cpu", "torch:cpu", "jax:cpu")
"""JAX is rare because it takes seconds to compile."""


def case(case: Case) -> str:
    """A model on a target."""
    target = case.random.choice(TARGETS)
    model = settled(drawn(case.random), target)
    note(case, model, target)
    reference = Reference(model)
    if not reference.usable:
        return "numbers too large"
    run = compile(model.graph, target, reference.params, **workload(model))
    reference.compare(results_of(run, reference.arrays, target), target)
    return target


def results_of(run: Runnable, arrays: Sequence[Array], target: str) -> tuple[Array, ...]:
    """The results of a compiled model. Raises WrongError if it refuses inputs of the interpreter."""
    try:
        return several(run(*arrays))
    except FlashirError as error:
        raise WrongError(f"{target} compiles a model and refuses its inputs", error.message) from error


def settled(model: Drawn, target: str) -> Drawn:
    """The model with its open choices planned for the target."""
    if not is_open(model.graph):
        return model
    return replace(model, graph=plan(model.graph, target, measured=False, **workload(model)).graph)


def workload(model: Drawn) -> dict[str, Any]:
    """The workload of a plan."""
    return {"batch": max(1, model.batch), "seq_len": max(1, model.length)}


def note(case: Case, model: Drawn, target: str) -> None:
    """Record the model and its sizes."""
    case.note("target", target)
    case.note("sizes", f"{model.batch} x {model.length}, seed {model.seed}, {model.dtype}")
    case.note("model", dumps(model.graph))
