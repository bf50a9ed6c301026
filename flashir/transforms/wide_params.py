"""wide-params: float32 master weights for a model that computes in bfloat16 or float16."""

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
class WideParams(Pass):
    """`param() {dtype = bf16}` -> `cast(param() {dtype = f32}) {dtype = bf16}`; also for f16.

    bfloat16 has 8 bits of precision, so a change of 0.001 to a weight near 1 is lost. The optimiser updates the float32
    weights.
    """

    name = "wide-params"

    def apply(self, graph: Graph) -> Graph:
        """Rewrite every bfloat16 or float16 parameter."""
        return rewrite(graph, widen)


def widen(b: Builder, node: Node) -> Sequence[Value] | None:
    """Replace a narrow parameter by a cast of a float32 one."""
    if node.op != "param" or node.output.type.dtype not in NARROW:
        return None
    wide = b.param(**{**node.attrs, "dtype": DType.F32})
    return [b.cast(wide, dtype=node.output.type.dtype)]
