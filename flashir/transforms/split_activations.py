"""split-activations: split before an activation instead of after it, so that each part is fused with its reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flashir.ir.builder import Builder
from flashir.ir.graph import Graph, Node, Value
from flashir.ops import OPS
from flashir.transforms.pipeline import Pass
from flashir.transforms.rewriter import rewrite


@dataclass(frozen=True)
class SplitActivations(Pass):
    """`split(silu(%x))` -> `silu(%x_i)` for each part i of `split(%x)`; also for other activations.

    For targets whose compilers fuse an elementwise op with the single reader of its result, but write a result that is
    split to memory.
    """

    name = "split-activations"

    def apply(self, graph: Graph) -> Graph:
        """Rewrite every split of an activation."""
        return rewrite(graph, split_activation)


def split_activation(b: Builder, node: Node) -> Sequence[Value] | None:
    """Replace a split of an activation by activations of a split."""
    if node.op != "split":
        return None
    activation = b.producer(node.operands[0])
    if activation is None or not _is_activation(activation):
        return None
    parts = b.results("split", activation.operands[0], **node.attrs)
    return [b.results(activation.op, part)[0] for part in parts]


def _is_activation(node: Node) -> bool:
    """Whether the node is an elementwise function of one operand, without attributes."""
    return OPS[node.op].is_elementwise and len(node.inputs) == 1 and not node.attrs
