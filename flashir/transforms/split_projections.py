"""split-projections: split the weights of a projection instead of its result."""

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

    Splitting a result copies it in every run; parameters are split once, at compile time. For targets whose matrix
    products are as fast with narrower weights.
    """

    name = "split-projections"

    def apply(self, graph: Graph) -> Graph:
        """Rewrite every split of a projection."""
        return rewrite(graph, split_projection)


def split_projection(b: Builder, node: Node) -> Sequence[Value] | None:
    """Replace a split of a projection by projections with split weights."""
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
