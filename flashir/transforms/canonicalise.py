"""canonicalise: constant folding, common subexpression elimination and dead code elimination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flashir.ir.builder import Builder
from flashir.ir.folding import constant_of, same_type
from flashir.ir.graph import Graph, Node, Value
from flashir.ir.op import OPS
from flashir.transforms.pipeline import Pass
from flashir.transforms.rewriter import RewritingBuilder, rewrite


@dataclass(frozen=True)
class Canonicalise(Pass):
    """Fold constants, remove identities, merge equal nodes and drop dead ones, also inside regions."""

    name = "canonicalise"

    def apply(self, graph: Graph) -> Graph:
        """Rewrite the graph in one walk. Rules apply to each node as it is inserted, so their results fold further."""
        return drop_dead(rewrite(graph, fold, merge_equal))


def fold(b: Builder, node: Node) -> Value | None:
    """Replace a node that equals one of its operands or a constant."""
    record = OPS[node.op]
    simpler = record.fold(b, node) if record.fold is not None else _drop_neutral(b, node)
    return simpler if simpler is not None else _fold_constants(b, node)


def merge_equal(b: RewritingBuilder, node: Node) -> Sequence[Value] | None:
    """`%1 = f(%x); %2 = f(%x)` -> `%2` is `%1`."""
    return b.equal(node)


def drop_dead(graph: Graph) -> Graph:
    """The graph without nodes whose results are unused, also inside regions."""
    needed = set(graph.outputs)
    live: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.isdisjoint(node.outputs):
            continue
        live.append(replace(node, region=drop_dead(node.region)) if node.region is not None else node)
        needed.update(node.operands)
    return replace(graph, nodes=tuple(reversed(live)))


def _drop_neutral(b: Builder, node: Node) -> Value | None:
    """`sub(x, 0)` -> `x`; if the op is commutative, also `add(0, x)` -> `x`."""
    record = OPS[node.op]
    if record.neutral is None:
        return None
    x, y = node.inputs
    if constant_of(b, y) == record.neutral:
        return same_type(node, x)
    return same_type(node, y) if record.commutative and constant_of(b, x) == record.neutral else None


def _fold_constants(b: Builder, node: Node) -> Value | None:
    """`mul(2, 3)` -> `6`, computed by the reference of the op."""
    record = OPS[node.op]
    if not (record.is_primitive and record.is_elementwise):
        return None
    numbers = [constant_of(b, value) for value in node.operands]
    if any(number is None for number in numbers):
        return None
    with np.errstate(all="ignore"):
        folded = np.asarray(record.ref(*(np.asarray(n) for n in numbers), **node.attrs))
    return b.constant(folded.item(), node.output.type.dtype) if np.isfinite(folded) else None
