"""How often the bodies of loops run, and the limits on it."""

from __future__ import annotations

from collections.abc import Iterable

from flashir.errors import IRError
from flashir.ir.graph import Node
from flashir.ir.limits import MOST_LAYERS, MOST_STEPS
from flashir.ir.op import OPS


def rounds(node: Node) -> int:
    """How often the body of a node runs if that is known, otherwise 1."""
    record = OPS[node.op]
    if record.rounds is None:
        return 1
    count = record.rounds([value.type for value in node.operands], node.attrs)
    return count if isinstance(count, int) else 1


def layers(nodes: Iterable[Node]) -> int:
    """The number of layers. The counts of nested repeats are multiplied."""
    total = 0
    for node in nodes:
        if node.region is not None:
            inside = layers(node.region.nodes)
            total += rounds(node) * max(1, inside) if node.op == "repeat" else inside
    return total


def steps(nodes: Iterable[Node]) -> int:
    """The iterations of all loops with a known count. The counts of nested loops are multiplied."""
    return sum(rounds(node) * max(1, steps(node.region.nodes)) for node in nodes if node.region is not None)


def check_loops(nodes: Iterable[Node]) -> None:
    """Raise IRError if the loops have too many layers or steps."""
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
