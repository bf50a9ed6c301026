"""The systems of a comparison, with as many parameters as the first of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flashir.ir import Graph
from flashir.ir.parameter_count import parameter_count

WIDTHS = 8
"""Widths are tried in steps of this."""
FEWEST_LAYERS = 2
"""One layer of attention cannot find what stands beside the token that it looks for."""

Build = Callable[[int, int], Graph]
"""Makes a system of a depth and a width."""


def fitted(budget: int, systems: Mapping[str, Build], depth: int, width: int) -> dict[str, Graph]:
    """The systems with parameter counts as close to a budget as their depth and then their width allow.

    Args:
        budget: the number of parameters.
        systems: how to make each system.
        depth, width: the shape of the system that has the budget; the others are tried around it.
    """

    def distance(graph: Graph) -> int:
        return abs(parameter_count(graph) - budget)

    models = {}
    for name, build in systems.items():
        by_depth = {layers: build(layers, width) for layers in range(min(FEWEST_LAYERS, depth), 2 * depth + 1)}
        best = min(by_depth, key=lambda layers: distance(by_depth[layers]))
        widths = range(max(WIDTHS, width - 4 * WIDTHS), width + 5 * WIDTHS, WIDTHS)
        models[name] = min([by_depth[best], *(build(best, other) for other in widths)], key=distance)
    return models
