"""pad: pad the token ids to whole chunks once, so that no layer pads its activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

from flashir.ir.builder import Builder
from flashir.ir.dims import Size, ceildiv, divides
from flashir.ir.graph import Graph, Node, Value
from flashir.ops import OPS
from flashir.transforms.pipeline import Pass
from flashir.transforms.rewriter import rewrite


@dataclass(frozen=True)
class Pad(Pass):
    """`embed(%ids)` .. `unembed(%x)` -> `embed(pad(%ids))` .. `unembed(slice(%x))`; layers get the length as `valid`.

    Applies if all ops of the model ignore padding, see `OpDef.is_padding_safe`. Otherwise each layer pads its operand.
    """

    name = "pad"

    def apply(self, graph: Graph) -> Graph:
        """Pad to a multiple of every chunk in the model."""
        length = length_to_pad(graph)
        if length is None:
            return graph
        chunks = [node.attrs["chunk"] for node in graph.walk() if "chunk" in node.attrs]
        multiple = lcm(*(chunk for chunk in chunks if isinstance(chunk, int)))
        padded = ceildiv(length, multiple) * multiple

        def mark(b: Builder, node: Node) -> Sequence[Value] | None:
            if "valid" not in node.attrs or node.attrs["valid"] is not None:
                return None
            return b.insert(node.op, node.inputs, {**node.attrs, "valid": length})

        def widen(b: Builder, node: Node) -> Sequence[Value] | None:
            x = node.inputs[0] if node.inputs else None
            if x is not None and node.op == "embed" and x.type.shape[1] == length:
                return b.insert("embed", (b.pad(x, axis=1, after=padded - length),), node.attrs)
            if x is not None and node.op == "unembed" and x.type.shape[1] == padded:
                return b.insert("unembed", (b.slice(x, axis=1, stop=length),), node.attrs)
            return None

        return rewrite(rewrite(graph, mark), widen)


def length_to_pad(graph: Graph) -> Size | None:
    """The number of tokens, if the model can be padded as a whole and needs it; otherwise None."""
    nodes = list(graph.walk())
    chunks = [node.attrs["chunk"] for node in nodes if "chunk" in node.attrs]
    lengths = {node.operands[0].type.shape[1] for node in nodes if node.op == "embed"}
    results = {node.output for node in nodes if node.op == "unembed"}
    tokens_alone = not any(value.type.dtype.is_float for value in graph.inputs)  # a float input is not padded
    whole = (
        tokens_alone
        and all(OPS[node.op].is_padding_safe(node.attrs) for node in nodes)
        and set(graph.outputs) <= results
    )
    if not whole or not chunks or len(lengths) != 1 or not all(isinstance(chunk, int) for chunk in chunks):
        return None
    length = lengths.pop()
    return None if all(divides(chunk, length) for chunk in chunks if isinstance(chunk, int)) else length
