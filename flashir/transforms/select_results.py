"""Models that return some of the results of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flashir.errors import InputError, suggest
from flashir.ir.graph import Graph
from flashir.ir.parameter_names import with_scopes
from flashir.transforms.canonicalise import drop_dead


def first_result(model: Graph) -> Graph:
    """`return %logits, %hidden` -> `return %logits`. Nodes that only other results need stay, with their parameters."""
    return model if len(model.outputs) == 1 else replace(model, outputs=model.outputs[:1])


def select_results(model: Graph, names: Sequence[str]) -> Graph:
    """`return %logits, %hidden` -> `return %hidden`, without what only other results need. Parameters keep their names.

    Args:
        model: the model; it keeps all its inputs.
        names: the names of the results to return, in this order.

    Raises:
        InputError: lists the names that are no results of the model, or repeated.
    """
    results = {value.name: value for value in model.outputs}
    problems = [f"it returns no {name!r}{suggest(name, results)}" for name in names if name not in results]
    problems += [f"{name} is named twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    if problems:
        raise InputError(problems, where=f"@{model.name}", hint=f"its results are {', '.join(results)}")
    if tuple(names) == tuple(results):
        return model
    return drop_dead(replace(with_scopes(model), outputs=tuple(results[name] for name in names)))
