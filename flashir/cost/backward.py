"""What the backward pass does: which values a gradient reaches, and which values of the forward it reads.

%2 = silu(%1); %3 = mul(%2, %0); %4 = add(%3, %0)   ->   %1, %2 and %0 are kept, %3 is not
"""

from __future__ import annotations

from collections.abc import Iterator, Set

from flashir.ir.graph import Graph, Node, Value
from flashir.ir.traits import no_gradient, reads_operands
from flashir.ops import OPS
from flashir.ops.primitive.scan import cut_scan


def reached(graph: Graph) -> set[Value]:
    """The values that a gradient reaches, within loops too: they descend from parameters, or from inputs of numbers."""
    return _reached(graph, {value for value in graph.inputs if value.type.dtype.is_float})


def _reached(graph: Graph, inputs: Set[Value]) -> set[Value]:
    found = set(inputs)
    for node in graph.nodes:
        if node.region is not None:
            found |= _within(node, node.region, found)
        elif node.op == "param" or (_passes_gradient(node) and not found.isdisjoint(node.operands)):
            found.update(node.outputs)
    return found


def _within(node: Node, body: Graph, outside: Set[Value]) -> set[Value]:
    """What a loop adds; what a round hands on to the next one counts in every round."""
    inputs = {inner for outer, inner in zip(node.operands, body.inputs, strict=True) if outer in outside}
    state, *_ = cut_scan(node.operands, node.attrs)
    while True:
        found = _reached(body, inputs)
        carried = {before for before, after in zip(body.inputs[: len(state)], body.outputs) if after in found}
        if carried <= inputs:
            return found | {outer for outer, inner in zip(node.outputs, body.outputs, strict=True) if inner in found}
        inputs |= carried


def read_by_gradient(node: Node, reached: Set[Value]) -> tuple[Value, ...]:
    """The values that the gradient of a node reads, by its record.

    Args:
        node: of a lowered graph, not a loop.
        reached: the values that a gradient reaches.
    """
    if reached.isdisjoint(node.outputs):
        return ()
    return (OPS[node.op].gradient or reads_operands)(node, reached)


def _passes_gradient(node: Node) -> bool:
    return OPS[node.op].gradient is not no_gradient


def kept_by(graph: Graph, reached: Set[Value]) -> Iterator[Value]:
    """The values of a graph that its backward pass reads; of its loops, what their bodies read of the outside."""
    for node in graph.nodes:
        if node.region is None:
            yield from read_by_gradient(node, reached)
            continue
        inside = set(kept_by(node.region, reached))
        yield from (outer for outer, inner in zip(node.operands, node.region.inputs, strict=True) if inner in inside)
