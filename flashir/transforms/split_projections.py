"""split-projections: several products with parts of the weight instead of one whose result is cut up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flashir.ir.builder import Builder
from flashir.ir.graph import Graph, Node, Value
from flashir.transforms.pipeline import Pass
from flashir.transforms.rewriter import rewrite


@dataclass(frozen=True)
class SplitProjections(Pass):
    """`split(silu(dense(%x, %W, %c)))` -> `silu(dense(%x, %W_i, %c_i))` for each part i.

    Cutting a result copies all of it; cutting parameters is done once, when the model is compiled. For targets whose
    matrix products are as fast on the narrower weights.
    """

    name = "split-projections"

    def apply(self, graph: Graph) -> Graph:
        """Rewrite every such split."""
        return rewrite(graph, split_projection)


def split_projection(b: Builder, node: Node) -> Sequence[Value] | None:
    """The rule of the pass."""
    if node.op != "split" or node.attrs["axis"] != -1:
        return None
    activation = b.producer(node.inputs[0])
    dense = b.producer(activation.inputs[0]) if activation is not None and activation.op == "silu" else None
    if dense is None or dense.op != "dense":
        return None
    x, weight, bias = dense.operands
    parameter = b.producer(weight)
    if parameter is None or parameter.op != "param":
        return None
    sizes = node.attrs["sizes"]
    weights = b.results("split", weight, axis=1, sizes=sizes)
    biases = b.results("split", bias, axis=0, sizes=sizes)
    return [b.silu(b.dense(x, w, c)) for w, c in zip(weights, biases, strict=True)]
