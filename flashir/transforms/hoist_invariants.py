"""hoist: what every round of a `repeat` computes alike is computed once, before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flashir.ir.builder import Builder
from flashir.ir.graph import Graph, Node, Value
from flashir.ops import OPS
from flashir.transforms.pipeline import Pass
from flashir.transforms.rewriter import rewrite


@dataclass(frozen=True)
class Hoist(Pass):
    """`repeat(%x) (%h) { %t = f(); yield g(%h, %t) }` -> `%t = f(); repeat(%x, %t) (%h, %t) { yield g(%h, %t) }`"""

    name = "hoist"

    def apply(self, graph: Graph) -> Graph:
        """Move rope tables, masks and other invariants out of every repeat, the innermost first."""
        return rewrite(graph, hoist)


def hoist(b: Builder, node: Node) -> Sequence[Value] | None:
    """Rebuild a repeat whose body computes something that depends on no round."""
    body = node.region
    if node.op != "repeat" or body is None:
        return None
    invariant = _invariant_nodes(body)
    numbers = {id(each) for each in invariant}
    inside = [each for each in body.nodes if id(each) not in numbers]
    wanted = {value for each in inside for value in each.operands} | set(body.outputs)
    moved = [value for each in invariant for value in each.outputs if value in wanted and not OPS[each.op].inline]
    if not moved:
        return None
    outside = dict(zip(body.inputs, node.operands, strict=True))
    for each in invariant:
        operands = [None if value is None else outside[value] for value in each.inputs]
        outside.update(zip(each.outputs, b.insert(each.op, operands, each.attrs, each.region), strict=True))
    kept = [each for each in body.nodes if id(each) not in numbers or OPS[each.op].inline]
    slimmer = replace(body, inputs=(*body.inputs, *moved), nodes=tuple(kept))
    return b.insert(node.op, (*node.operands, *(outside[value] for value in moved)), node.attrs, slimmer)


def _invariant_nodes(body: Graph) -> list[Node]:
    """The nodes that depend on neither the value passed on nor a parameter, which differs from round to round."""
    known = set(body.inputs[1:])
    found = []
    for node in body.nodes:
        if not _owns_parameters(node) and known.issuperset(node.operands):
            known.update(node.outputs)
            found.append(node)
    return found


def _owns_parameters(node: Node) -> bool:
    inside = () if node.region is None else node.region.walk()
    return any(OPS[each.op].params is not None for each in (node, *inside))
