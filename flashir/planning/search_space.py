"""The search space: the values that a model leaves open and its parameters allow."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from flashir.ir import Graph
from flashir.ir.graph import Attr
from flashir.ir.parameter_names import parameters
from flashir.transforms.settle_choices import Settings, Slot, attribute_of, settle, slots


def search_space(
    graph: Graph, seq_len: int, params: Mapping[str, Any] | None = None
) -> tuple[tuple[Settings, ...], ...]:
    """For each op with choices of its own: every combination of their values.

    Ops are searched one after the other, not in every combination, for the cost of a model is the sum of the costs of
    its layers.

    Args:
        graph: the model; what it has settled stays as it is.
        seq_len: tokens a row; lengths above it are left out, but for the first that holds it whole.
        params: where they exist, only values that fit their shapes.
    """
    by_op: dict[str, list[Slot]] = {}
    for slot in slots(graph):
        by_op.setdefault(slot.op, []).append(slot)
    return tuple(
        tuple(
            Settings(dict(zip([slot.name for slot in own], values, strict=True)))
            for values in product(*(_values(graph, slot, seq_len, params) for slot in own))
        )
        for own in by_op.values()
    )


def _values(graph: Graph, slot: Slot, seq_len: int, params: Mapping[str, Any] | None) -> tuple[Attr, ...]:
    choice = slot.choice
    if not slot.is_open:
        return slot.candidates
    if params is None or not choice.changes_function:
        return choice.within(seq_len, slot.candidates)
    made_for = () if choice.fitting is None else choice.fitting(params)
    values = sorted({*slot.candidates, *made_for}, key=lambda value: (str(type(value)), value))
    shapes = {value: _shapes(settle(graph, {slot.name: value})) for value in values}
    return tuple(value for value in values if not _misfits(shapes[value], _varying(shapes), params))


def misfits(graph: Graph, settings: Mapping[str, Attr], params: Mapping[str, Any]) -> list[str]:
    """The parameters that were made for another value of a choice than the one set by hand, each with both shapes.

    Args:
        graph: the model with those choices open.
        settings: what was set.
        params: the parameters.
    """
    wanted = _shapes(settle(graph, settings))
    problems: dict[str, None] = {}
    for slot in slots(graph):
        if slot.choice.changes_function and attribute_of(slot.name) in settings:
            others = {value: _shapes(settle(graph, {slot.name: value})) for value in slot.candidates}
            problems |= dict.fromkeys(_misfits(wanted, _varying({**others, None: wanted}), params))
    return [
        f"{name} has shape {_shape(params[name])}, with this {' and '.join(settings)} it would be {wanted[name]}"
        for name in problems
        if name in params and name in wanted
    ]


Shapes = Mapping[str, tuple[int, ...]]


def _shapes(graph: Graph) -> Shapes:
    return {name: spec.shape for name, spec in parameters(graph).items()}


def _varying(shapes: Mapping[Any, Shapes]) -> set[str]:
    """The parameters that not all values give the same shape."""
    names = {name for each in shapes.values() for name in each}
    return {name for name in names if len({each.get(name) for each in shapes.values()}) > 1}


def _misfits(wanted: Shapes, varying: set[str], params: Mapping[str, Any]) -> list[str]:
    """Of the parameters that vary with a choice, those that have another shape, or that one side lacks."""
    return [name for name in sorted(varying) if (_shape(params[name]) if name in params else None) != wanted.get(name)]


def _shape(array: Any) -> tuple[int, ...]:
    """Of an array; no axes where it is none, which is told when parameters are checked."""
    return tuple(getattr(array, "shape", ()))
