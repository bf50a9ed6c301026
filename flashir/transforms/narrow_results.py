"""narrow-results: a model in bfloat16 or float16 returns its results as they are, without a cast to float32."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flashir.ir.graph import Graph, Value
from flashir.ir.types import DType
from flashir.transforms.pipeline import Pass
from flashir.transforms.wide_params import NARROW


@dataclass(frozen=True)
class NarrowResults(Pass):
    """`y = cast(x: bf16) {dtype = f32}; return y` -> `return x`; also for f16.

    Logits are the largest tensor of a language model. The loss casts each number to float32 as it reads it.
    """

    name = "narrow-results"

    def apply(self, graph: Graph) -> Graph:
        """Remove such casts from the results."""
        producers = {value: node for node in graph.nodes for value in node.outputs}

        def narrow(value: Value) -> Value:
            node = producers.get(value)
            if node is None or node.op != "cast" or value.type.dtype is not DType.F32:
                return value
            operand = node.operands[0]
            return operand if operand.type.dtype in NARROW else value

        outputs = tuple(map(narrow, graph.outputs))
        used = {value for node in graph.nodes for value in node.operands} | set(outputs)
        unused = {value for value in graph.outputs if value not in used}
        nodes = tuple(node for node in graph.nodes if not unused.intersection(node.outputs))
        return replace(graph, nodes=nodes, outputs=outputs)
