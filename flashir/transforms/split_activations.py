"""split-activations: a result is cut up before its activation, so that each part is computed where it is read."""

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
    """`split(silu(%x))` -> `silu(%x_i)` for each part i of `split(%x)`; so with the other activations.

    For targets whose compilers join an elementwise op with the one reader of its result, but write what is read as a
    whole.
    """

    name = "split-activations"

    def apply(self, graph: Graph) -> Graph:
        """Rewrite every such split."""
        return rewrite(graph, split_activation)


def split_activation(b: Builder, node: Node) -> Sequence[Value] | None:
    """The rule of the pass."""
    if node.op != "split":
        return None
    activation = b.producer(node.operands[0])
    if activation is None or not _is_activation(activation):
        return None
    parts = b.results("split", activation.operands[0], **node.attrs)
    return [b.results(activation.op, part)[0] for part in parts]


def _is_activation(node: Node) -> bool:
    """Whether the node is an elementwise function of one operand."""
    return OPS[node.op].is_elementwise and len(node.inputs) == 1 and not node.attrs
