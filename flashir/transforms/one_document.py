"""one-document: remove the inputs for documents and padding. Each row is then one document."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

from flashir.ir.graph import Graph, Node, Value
from flashir.ops import OPS
from flashir.transforms.pipeline import Pass

MASKS = ("documents?", "segment_ids?")
"""Optional operands that mask attention between documents. Without them, all tokens of a row attend to each other."""


@dataclass(frozen=True)
class OneDocument(Pass):
    """`model(ids, segment_ids, mask)` -> `model(ids)`: inputs that only mask documents or padding are removed.

    An input that is read for another purpose too stays.
    """

    name = "one-document"

    def apply(self, graph: Graph) -> Graph:
        """Remove every input that only masks documents or padding."""
        masks = {value for value in graph.inputs if _only_masks(graph, value)}
        return _without(graph, masks) if masks else graph


def _only_masks(graph: Graph, value: Value) -> bool:
    """Whether a value has readers, and all of them read it as a mask of documents."""
    readers = [node for node in graph.nodes if value in node.inputs]
    return bool(readers) and value not in graph.outputs and all(_reads_as_mask(graph, node, value) for node in readers)


def _reads_as_mask(graph: Graph, node: Node, value: Value) -> bool:
    indices = [index for index, operand in enumerate(node.inputs) if operand == value]
    if node.op == "documents":
        return _only_masks(graph, node.output)
    if node.op == "repeat" and node.region is not None:
        body = node.region
        return all(index > 0 and _only_masks(body, body.inputs[index]) for index in indices)
    names = OPS[node.op].operands
    return all(index < len(names) and names[index] in MASKS for index in indices)


def _without(graph: Graph, inputs: Set[Value]) -> Graph:
    """The graph without these inputs."""
    removed, nodes = set(inputs), []
    for node in graph.nodes:
        if node.op == "documents" and not removed.isdisjoint(node.operands):
            removed.update(node.outputs)
            continue
        if node.op == "repeat" and node.region is not None:
            inner = {own for own, value in zip(node.region.inputs, node.operands, strict=True) if value in removed}
            operands = tuple(value for value in node.inputs if value not in removed)
            nodes.append(replace(node, inputs=operands, region=_without(node.region, inner)))
            continue
        present = [None if value in removed else value for value in node.inputs]
        while present and present[-1] is None:
            present.pop()
        nodes.append(replace(node, inputs=tuple(present)))
    remaining = tuple(value for value in graph.inputs if value not in inputs)
    return replace(graph, inputs=remaining, nodes=tuple(nodes))
