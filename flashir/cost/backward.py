"""The backward pass: which values a gradient reaches, and which values of the forward pass it reads.

%2 = silu(%1); %3 = mul(%2, %0); %4 = add(%3, %0)   ->   %1, %2 and %0 are saved, %3 is not
"""

from __future__ import annotations

from collections.abc import Iterator, Set

from flashir.ir.graph import Graph, Node, Value
from flashir.ir.traits import no_gradient, reads_operands
from flashir.ops import OPS
from flashir.ops.primitive.scan import cut_scan


def reached(graph: Graph) -> set[Value]:
    """The values that a gradient reaches, including those in loops: they depend on parameters or on float inputs."""
    return _reached(graph, {value for value in graph.inputs if value.type.dtype.is_float})


def _reached(graph: Graph, inputs: Set[Value]) -> set[Value]:
    values = set(inputs)
    for node in graph.nodes:
        if node.region is not None:
            values |= _within(node, node.region, values)
        elif node.op == "param" or (_passes_gradient(node) and not values.isdisjoint(node.operands)):
            values.update(node.outputs)
    return values


def _within(node: Node, body: Graph, outside: Set[Value]) -> set[Value]:
    """The values that a gradient reaches through a loop. A carried value counts in every iteration."""
    inputs = {inner for outer, inner in zip(node.operands, body.inputs, strict=True) if outer in outside}
    state, *_ = cut_scan(node.operands, node.attrs)
    while True:
        values = _reached(body, inputs)
        carried = {before for before, after in zip(body.inputs[: len(state)], body.outputs) if after in values}
        if carried <= inputs:
            return values | {outer for outer, inner in zip(node.outputs, body.outputs, strict=True) if inner in values}
        inputs |= carried


def read_by_gradient(node: Node, reached: Set[Value]) -> tuple[Value, ...]:
    """The values that the gradient of a node reads, by the record of its op.

    Args:
        node: a node of a lowered graph, not a loop.
        reached: the values that a gradient reaches.
    """
    if reached.isdisjoint(node.outputs):
        return ()
    return (OPS[node.op].gradient or reads_operands)(node, reached)


def _passes_gradient(node: Node) -> bool:
    return OPS[node.op].gradient is not no_gradient


def saved_by(graph: Graph, reached: Set[Value]) -> Iterator[Value]:
    """The values of a graph that its backward pass reads, including those that the bodies of loops read."""
    for node in graph.nodes:
        if node.region is None:
            yield from read_by_gradient(node, reached)
            continue
        inside = set(saved_by(node.region, reached))
        yield from (outer for outer, inner in zip(node.operands, node.region.inputs, strict=True) if inner in inside)
