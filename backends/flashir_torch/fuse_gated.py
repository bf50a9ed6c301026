"""fuse-gated-attention: the core of a flash layer becomes one op where it has kernels. Works without PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flashir.ir import Builder, Graph, Node, Value
from flashir.ir.folding import constant_of
from flashir.ops.attention.recurrence import is_mixed_chunk
from flashir.transforms.pipeline import Pass
from flashir.transforms.rewriter import Rule, rewrite

Claims = Callable[[Node], bool]
CORE = "gated_mixed_attention"


@dataclass(frozen=True)
class FuseGatedAttention(Pass):
    """`silu(%u) * chunked_recurrence(silu(%v), ..)` of heads of `silu(%z)` -> `gated_mixed_attention(%pre, %shift, ..)`

    %u, %v and %z are the parts of one split of `dense(%x, %W, %shift)`, which becomes `%pre = matmul(%x, %W)`. What the
    target does not claim stays in parts.
    """

    name = "fuse-gated-attention"
    claims: Claims = field(default=lambda node: True, repr=False)

    def apply(self, graph: Graph) -> Graph:
        """Rewrite every such product."""
        if not any(is_mixed_chunk(node) for node in graph.walk() if node.op == "chunked_recurrence"):
            return graph
        return rewrite(graph, fuse(self.claims))


def fuse(claims: Claims) -> Rule:
    """The rule for what a target claims."""

    def rule(b: Builder, node: Node) -> Sequence[Value] | None:
        core = _core(b, node) if node.op == "mul" else None
        if core is None:
            return None
        dense, others, attrs = core
        x, weight, shift = dense.operands
        scratch = Builder("claim")
        copies = [scratch.input(f"x{i}", value.type) for i, value in enumerate((dense.output, shift, *others))]
        scratch.results(CORE, *copies, **attrs)
        if not claims(scratch.nodes[-1]):
            return None
        return b.results(CORE, b.matmul(x, weight), shift, *others, **attrs)

    return rule


def _core(b: Builder, node: Node) -> tuple[Node, list[Value], dict[str, Any]] | None:
    """The projection before the op that computes this product, its other operands and its attributes, or None."""
    gate, attention = (_by(b, value, "silu", "chunked_recurrence") for value in node.operands)
    if gate is None or attention is None or attention.op != "chunked_recurrence" or not is_mixed_chunk(attention):
        return None
    v, quad_q, quad_k, bias, lin_q, lin_k = attention.operands
    scaled, value = _by(b, quad_q, "mul"), _by(b, v, "silu")
    scale = None if scaled is None else constant_of(b, scaled.operands[1])
    if scaled is None or scale is None or value is None:
        return None
    heads = _parts(b, [scaled.operands[0], quad_k, lin_q, lin_k])
    turn = None if heads is None else _by(b, _uncast(b, heads.operands[0]), "turn")
    offset = None if turn is None else _by(b, _uncast(b, turn.operands[0]), "offset_scale")
    key = None if offset is None else _by(b, offset.operands[0], "silu")
    if turn is None or offset is None or key is None or turn.operands[1].type.rank != 2:
        return None
    split = b.producer(gate.operands[0])
    if split is None or split.op != "split" or [x.operands[0] for x in (gate, value, key)] != list(split.outputs):
        return None
    dense = _by(b, split.operands[0], "dense")
    if dense is None:
        return None
    attrs = {name: attention.attrs[name] for name in ("chunk", "causal", "cumsum", "lin_norm")}
    return dense, [*offset.operands[1:], bias, *turn.operands[1:]], {**attrs, "scale": float(scale)}


def _by(b: Builder, value: Value, *ops: str) -> Node | None:
    """The node that makes a value, if it is one of these ops."""
    node = b.producer(value)
    return node if node is not None and node.op in ops else None


def _uncast(b: Builder, value: Value) -> Value:
    cast = _by(b, value, "cast")
    return value if cast is None else cast.operands[0]


def _parts(b: Builder, heads: Sequence[Value]) -> Node | None:
    """The split whose results, reshaped, are these heads in order."""
    shaped = [_by(b, head, "reshape") for head in heads]
    first = None if shaped[0] is None else _by(b, shaped[0].operands[0], "split")
    if first is None or [reshape and reshape.operands[0] for reshape in shaped] != list(first.outputs):
        return None
    return first
