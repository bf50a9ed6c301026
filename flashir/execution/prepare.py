"""prepare: what compiling, exporting and gradients begin with: a plan, checked parameters, and a lowered graph.

`flashir.planning` settles the choices, and `flashir.backends.lowering` has the passes for the target.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from flashir.backends.lowering import Lowering, portable_form
from flashir.backends.protocols import Backend
from flashir.backends.registry import backend_of
from flashir.errors import SettingError
from flashir.ir import Graph
from flashir.ir.verify import verify
from flashir.machine.targets import target as find_target
from flashir.models.parameters import Params, checked, fitted, init, rechunked
from flashir.planning.plan import Plan, plan, unknown_choice
from flashir.transforms.settle_choices import choice_names, settled_values

WORKLOAD = ("batch", "seq_len", "policy", "dtype", "tolerance")
"""The settings of a plan that are not choices."""


@dataclass(frozen=True)
class Prepared:
    """A model that is ready for a backend: settled, with checked parameters."""

    plan: Plan
    params: Params
    backend: Backend
    lowering: Lowering

    @cached_property
    def lowered(self) -> Graph:
        """The lowered model."""
        return lowered(self.plan, self.lowering)

    def on(self, backend: Backend) -> Prepared:
        """The same model for another form of the backend."""
        lowering = replace(self.lowering, claims=backend.claims, extra=backend.passes())
        return replace(self, plan=replace(self.plan, lowered=None), backend=backend, lowering=lowering)


def lowered(plan: Plan, lowering: Lowering) -> Graph:
    """The graph of a plan as planning has lowered it, once it is verified; or lowered anew."""
    if plan.lowered is None:
        return lowering.run(plan.graph)
    verify(plan.lowered)
    return plan.lowered


def prepare(
    model: Graph,
    target: str,
    params: Mapping[str, Any] | None,
    portable: bool = False,
    /,
    *,
    seed: int = 0,
    rechunk: bool = False,
    strict: bool = True,
    **settings: Any,
) -> Prepared:
    """Plan a model and check its parameters. Arguments as for `compile`, and `portable` as for `export`.

    Without parameters, `init` makes them with this seed after the chunk is chosen.
    """
    if unknown := [unknown_choice(name) for name in settings if name not in (*WORKLOAD, *choice_names())]:
        raise SettingError(unknown)
    find_target(target)
    backend = backend_of(target)
    lowering = Lowering.of(target, portable=portable)
    if portable:
        backend = portable_form(backend, target)
    if params is not None:
        params = fitted(model, params, strict=strict)
    own_chunk = rechunk and settings.get("chunk") is not None
    settled_plan = plan(model, target, params=None if own_chunk else params, portable=portable, **settings)
    if params is None:
        params = init(settled_plan.graph, seed)
    elif own_chunk:
        params = _rechunk(model, params, settings["chunk"])
    return Prepared(settled_plan, checked(settled_plan.graph, params), backend, lowering)


def _rechunk(model: Graph, params: Mapping[str, Any], chunk: int) -> Params:
    before = settled_values(model, "chunk")
    if set(before) - {chunk}:
        warnings.warn(
            f"rechunked from {', '.join(map(str, before))} to {chunk}: the parameters were made for the former chunk, "
            "and with the latter they compute another function",
            stacklevel=3,
        )
    return rechunked(params, chunk)
