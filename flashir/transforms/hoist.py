"""hoist: loop-invariant code motion. What does not change between the rounds of a `repeat` is computed before it."""

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
        """Move rotary tables, masks and other invariants out of every repeat, the innermost first."""
        return rewrite(graph, hoist) if any(node.op == "repeat" for node in graph.walk()) else graph


def hoist(b: Builder, node: Node) -> Sequence[Value] | None:
    """Rebuild a repeat whose body computes invariant values."""
    body = node.region
    if node.op != "repeat" or body is None:
        return None
    invariant = _invariant_nodes(body)
    ids = {id(inner) for inner in invariant}
    inside = [inner for inner in body.nodes if id(inner) not in ids]
    read = {value for inner in inside for value in inner.operands} | set(body.outputs)
    moved = [value for inner in invariant for value in inner.outputs if value in read and not OPS[inner.op].inline]
    if not moved:
        return None
    outside = dict(zip(body.inputs, node.operands, strict=True))
    for inner in invariant:
        operands = [None if value is None else outside[value] for value in inner.inputs]
        outside.update(zip(inner.outputs, b.insert(inner.op, operands, inner.attrs, inner.region), strict=True))
    remaining = [inner for inner in body.nodes if id(inner) not in ids or OPS[inner.op].inline]
    region = replace(body, inputs=(*body.inputs, *moved), nodes=tuple(remaining))
    return b.insert(node.op, (*node.operands, *(outside[value] for value in moved)), node.attrs, region)


def _invariant_nodes(body: Graph) -> list[Node]:
    """The nodes that depend on neither the carried value nor a parameter: both differ from round to round."""
    known = set(body.inputs[1:])
    invariant = []
    for node in body.nodes:
        if not _owns_parameters(node) and known.issuperset(node.operands):
            known.update(node.outputs)
            invariant.append(node)
    return invariant


def _owns_parameters(node: Node) -> bool:
    inside = () if node.region is None else node.region.walk()
    return any(OPS[inner.op].params is not None for inner in (node, *inside))
