"""narrow-results: a model that computes with fewer bits returns what it made, not a wider copy of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flashir.ir.graph import Graph, Value
from flashir.ir.types import DType
from flashir.transforms.master_weights import NARROW
from flashir.transforms.pipeline import Pass


@dataclass(frozen=True)
class DropOutputCast(Pass):
    """`y = cast(x: bf16) {dtype = f32}; return y` -> `return x`; so with f16.

    Logits are the largest tensor of a language model. Whoever computes a loss of them widens each number as it is read.
    """

    name = "narrow-results"

    def apply(self, graph: Graph) -> Graph:
        """Take such casts from the results."""
        made_by = {value: node for node in graph.nodes for value in node.outputs}

        def narrow(value: Value) -> Value:
            node = made_by.get(value)
            if node is None or node.op != "cast" or value.type.dtype is not DType.F32:
                return value
            given = node.operands[0]
            return given if given.type.dtype in NARROW else value

        outputs = tuple(map(narrow, graph.outputs))
        used = {value for node in graph.nodes for value in node.operands} | set(outputs)
        spared = {value for value in graph.outputs if value not in used}
        kept = tuple(node for node in graph.nodes if not spared.intersection(node.outputs))
        return replace(graph, nodes=kept, outputs=outputs)
