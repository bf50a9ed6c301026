"""How often the bodies of loops run, and the bound on it."""

from __future__ import annotations

from collections.abc import Iterable

from flashir.errors import IRError
from flashir.ir.graph import Node
from flashir.ir.limits import MOST_LAYERS, MOST_STEPS
from flashir.ir.op import OPS


def rounds(node: Node) -> int:
    """How often the body of a node runs, where that is known; else 1."""
    record = OPS[node.op]
    if record.rounds is None:
        return 1
    count = record.rounds([value.type for value in node.operands], node.attrs)
    return count if isinstance(count, int) else 1


def layers(nodes: Iterable[Node]) -> int:
    """The layers that repeats make: those of a repeat inside another are multiplied."""
    total = 0
    for node in nodes:
        if node.region is not None:
            inside = layers(node.region.nodes)
            total += rounds(node) * max(1, inside) if node.op == "repeat" else inside
    return total


def steps(nodes: Iterable[Node]) -> int:
    """The rounds of all loops whose number is known: those of a loop inside another are multiplied."""
    return sum(rounds(node) * max(1, steps(node.region.nodes)) for node in nodes if node.region is not None)


def check_loops(nodes: Iterable[Node]) -> None:
    """Raises IRError where loops make more layers, or take more steps, than a graph may."""
    nodes = [node for node in nodes if node.region is not None]
    if (count := layers(nodes)) > MOST_LAYERS:
        raise IRError(
            f"the repeats make {count} layers together, at most {MOST_LAYERS} are possible",
            hint="`times` of a repeat inside another are multiplied",
        )
    if (count := steps(nodes)) > MOST_STEPS:
        raise IRError(
            f"the loops take {count} steps together, at most {MOST_STEPS} are possible",
            hint="the steps of a loop inside another are multiplied",
        )
