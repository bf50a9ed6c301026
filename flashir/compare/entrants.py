"""The systems of a comparison, with as many parameters as the first of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from math import inf
from typing import Protocol

from flashir.errors import IRError
from flashir.ir import Attr, Graph
from flashir.ir.parameter_count import parameter_count

CLOSE = 0.01
"""A system this close to the budget keeps its own expansion."""
WIDTHS, EXPANDED = 8, 2
"""Widths, and expanded widths, are tried in steps of these."""
STRETCH = 4 / 3
"""A system keeps its proportions if its expanded width changes by no more than this factor."""
FEWEST_LAYERS = 2
"""One layer of attention cannot find what stands beside the token that it looks for."""


class Build(Protocol):
    """Makes a system of a depth and a width, with further settings."""

    def __call__(self, depth: int, width: int, **settings: Attr) -> Graph:
        """The system."""
        ...


def fitted(budget: int, systems: Mapping[str, Build], depth: int, width: int) -> dict[str, Graph]:
    """The systems with parameter counts as close to a budget as possible.

    A system has the depth that brings it closest. Its expanded width does the rest, at the nearest width at which it
    changes little.

    Args:
        budget: the number of parameters.
        systems: how to make each system.
        depth, width: the shape of the system that has the budget; the others are tried around it.
    """
    around = range(max(WIDTHS, width - 4 * WIDTHS), width + 5 * WIDTHS, WIDTHS)
    widths = [width, *sorted(around, key=lambda other: abs(other - width))]
    models = {}
    for name, build in systems.items():
        depths = range(min(FEWEST_LAYERS, depth), 2 * depth + 1)
        best = min(depths, key=lambda layers: abs(parameter_count(build(layers, width)) - budget))
        tried = [*_tried(budget, build, best, widths), (build(best, width), inf)]
        least = min(stretch for _, stretch in tried)
        models[name] = next(graph for graph, stretch in tried if stretch <= max(least, STRETCH))
    return models


def _tried(budget: int, build: Build, depth: int, widths: Iterable[int]) -> Iterator[tuple[Graph, float]]:
    """What `_expanded` makes of each width that the number of heads divides."""
    for width in widths:
        with suppress(IRError):
            yield _expanded(budget, build, depth, width)


def _expanded(budget: int, build: Build, depth: int, width: int) -> tuple[Graph, float]:
    """A system with the expanded width that a budget leaves, and the factor by which it changes, at least 1.

    The number of parameters is linear in the expanded width.
    """
    own = build(depth, width)
    missing = budget - parameter_count(own)
    if abs(missing) <= CLOSE * budget:
        return own, 1.0
    once, twice = (parameter_count(build(depth, width, expanded=times * EXPANDED)) for times in (1, 2))
    per_step = twice - once
    before = 1 + (parameter_count(own) - once) / per_step
    steps = round(before + missing / per_step)
    if steps < 1:
        return own, inf
    return build(depth, width, expanded=steps * EXPANDED), max(steps / before, before / steps)
