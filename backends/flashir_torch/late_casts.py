"""late-casts: a relative bias is made of float32 weights and then cast, so that its gradient is summed in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flashir.ir import Builder, Graph, Node, Value
from flashir.transforms.canonicalise import drop_dead
from flashir.transforms.pipeline import Pass
from flashir.transforms.rewriter import rewrite

LATE = frozenset(("rel_pos_bias",))
"""Ops with one operand that only copy its elements: the same result, whether the cast is before or after."""


@dataclass(frozen=True)
class LateCasts(Pass):
    """`rel_pos_bias(cast(%w) {dtype = bf16})` -> `cast(rel_pos_bias(%w)) {dtype = bf16}`

    Each weight is read up to n times, and its gradient is the sum of as many numbers. In bfloat16 such a sum stops
    growing at 256 times its addends.
    """

    name = "late-casts"

    def apply(self, graph: Graph) -> Graph:
        """Rewrite every such op."""
        return drop_dead(rewrite(graph, late)) if any(node.op in LATE for node in graph.walk()) else graph


def late(b: Builder, node: Node) -> Sequence[Value] | None:
    """Move the cast of the operand behind the op."""
    cast = b.producer(node.operands[0]) if node.op in LATE else None
    if cast is None or cast.op != "cast":
        return None
    wide = b.results(node.op, cast.operands[0], **node.attrs)
    return [b.cast(wide[0], dtype=node.output.type.dtype)]
