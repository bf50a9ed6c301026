"""wide-params: parameters in float32 where the model computes with fewer bits, so that small steps are not lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flashir.ir.builder import Builder
from flashir.ir.graph import Graph, Node, Value
from flashir.ir.types import DType
from flashir.transforms.pipeline import Pass
from flashir.transforms.rewriter import rewrite

NARROW = (DType.BF16, DType.F16)


@dataclass(frozen=True)
class MasterWeights(Pass):
    """`param() {dtype = bf16}` -> `cast(param() {dtype = f32}) {dtype = bf16}`; so with f16.

    bfloat16 has 8 bits of precision: near 1, it has no number for a change of a thousandth. An optimiser moves the
    float32 ones.
    """

    name = "wide-params"

    def apply(self, graph: Graph) -> Graph:
        """Rewrite every such parameter."""
        return rewrite(graph, widen)


def widen(b: Builder, node: Node) -> Sequence[Value] | None:
    """The rule of the pass."""
    if node.op != "param" or node.output.type.dtype not in NARROW:
        return None
    wide = b.param(**{**node.attrs, "dtype": DType.F32})
    return [b.cast(wide, dtype=node.output.type.dtype)]
