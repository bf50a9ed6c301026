"""The search space: the values of the open choices that existing parameters allow."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from flashir.ir import Graph
from flashir.ir.graph import Attr
from flashir.ir.parameter_names import parameters
from flashir.ir.settings import Settings, attribute_of
from flashir.transforms.settle_choices import Slot, settle, slots


def search_space(
    graph: Graph, seq_len: int, params: Mapping[str, Any] | None = None
) -> tuple[tuple[Settings, ...], ...]:
    """For each op that has choices, every combination of their values.

    The cost of a model is the sum of the costs of its layers, so ops are searched one after the other and not in every
    combination.

    Args:
        graph: the model; settled choices stay as they are.
        seq_len: tokens per row; of the candidates above it, only the smallest is included.
        params: existing parameters; only values that fit their shapes are included.
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
    """Describe each parameter whose shape does not fit the given settings, with both shapes.

    Args:
        graph: the model with those choices open.
        settings: the values set by hand.
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
    """The parameters whose shape depends on the value."""
    names = {name for of_value in shapes.values() for name in of_value}
    return {name for name in names if len({of_value.get(name) for of_value in shapes.values()}) > 1}


def _misfits(wanted: Shapes, varying: set[str], params: Mapping[str, Any]) -> list[str]:
    """The varying parameters that have another shape than wanted, or exist on one side only."""
    return [name for name in sorted(varying) if (_shape(params[name]) if name in params else None) != wanted.get(name)]


def _shape(array: Any) -> tuple[int, ...]:
    """The shape of an array; () for anything else, which `checked` reports."""
    return tuple(getattr(array, "shape", ()))
