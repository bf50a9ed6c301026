"""one-document: a model that may be told of documents and padding, for rows that are one document each."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

from flashir.ir.graph import Graph, Node, Value
from flashir.ops import OPS
from flashir.transforms.pipeline import Pass

TELLING = ("documents?", "segment_ids?")
"""Optional operands that say which tokens see each other; without them, all of a row do."""


@dataclass(frozen=True)
class OneDocument(Pass):
    """`model(ids, segment_ids, mask)` -> `model(ids)`: what is told of documents and padding is left out.

    An input that says something else as well stays.
    """

    name = "one-document"

    def apply(self, graph: Graph) -> Graph:
        """Drop every input that only tells documents and padding apart."""
        told = {value for value in graph.inputs if _only_tells(graph, value)}
        return _without(graph, told) if told else graph


def _only_tells(graph: Graph, value: Value) -> bool:
    """Whether a value is read, and by nothing but operands that tell documents apart."""
    readers = [node for node in graph.nodes if value in node.inputs]
    return bool(readers) and value not in graph.outputs and all(_reads_as_told(graph, each, value) for each in readers)


def _reads_as_told(graph: Graph, node: Node, value: Value) -> bool:
    places = [place for place, operand in enumerate(node.inputs) if operand == value]
    if node.op == "documents":
        return _only_tells(graph, node.output)
    if node.op == "repeat" and node.region is not None:
        body = node.region
        return all(place > 0 and _only_tells(body, body.inputs[place]) for place in places)
    names = OPS[node.op].operands
    return all(place < len(names) and names[place] in TELLING for place in places)


def _without(graph: Graph, told: Set[Value]) -> Graph:
    """The graph without those values."""
    gone, nodes = set(told), []
    for node in graph.nodes:
        if node.op == "documents" and not gone.isdisjoint(node.operands):
            gone.update(node.outputs)
            continue
        if node.op == "repeat" and node.region is not None:
            inner = {own for own, value in zip(node.region.inputs, node.operands, strict=True) if value in gone}
            kept = tuple(value for value in node.inputs if value not in gone)
            nodes.append(replace(node, inputs=kept, region=_without(node.region, inner)))
            continue
        inputs = [None if value in gone else value for value in node.inputs]
        while inputs and inputs[-1] is None:
            inputs.pop()
        nodes.append(replace(node, inputs=tuple(inputs)))
    left = tuple(value for value in graph.inputs if value not in told)
    return replace(graph, inputs=left, nodes=tuple(nodes))
