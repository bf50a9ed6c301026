"""What the backward pass does: which values a gradient reaches, and which values of the forward it reads.

%2 = silu(%1); %3 = mul(%2, %0); %4 = add(%3, %0)   ->   %1, %2 and %0 are kept, %3 is not
"""

from __future__ import annotations

from collections.abc import Iterator, Set

from flashir.ir.graph import Graph, Node, Value
from flashir.ops.prefix import cut_scan

CUTS = frozenset(("less", "less_equal", "logical_and", "size"))
"""Ops that have no gradient, whatever they read."""

NOTHING = CUTS | frozenset(
    (
        *("add", "sub", "neg", "cast", "reduce_sum", "reduce_mean", "cumsum"),
        *("reshape", "transpose", "broadcast", "pad", "slice", "split", "concat", "reverse"),
        *("constant", "iota", "param", "sinusoid"),
    )
)
"""Ops that are linear, or have no gradient."""

RESULT = frozenset(("relu", "exp", "sqrt", "reciprocal", "sigmoid", "tanh", "softmax"))
"""Ops whose gradient is a function of their result."""

OPERAND = {"select": 0, "gather": 1}
"""Ops whose gradient reads one of their operands alone."""

BILINEAR = frozenset(("mul", "matmul"))
"""Ops of two sides, where the gradient of each reads the other."""


def reached(graph: Graph) -> set[Value]:
    """The values that a gradient reaches, within loops too: they descend from parameters, or from inputs of numbers."""
    return _reached(graph, {value for value in graph.inputs if value.type.dtype.is_float})


def _reached(graph: Graph, inputs: Set[Value]) -> set[Value]:
    found = set(inputs)
    for node in graph.nodes:
        if node.region is not None:
            found |= _within(node, node.region, found)
        elif node.op == "param" or (node.op not in CUTS and not found.isdisjoint(node.operands)):
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
    """The values that the gradient of a node reads; without a note above, all its operands.

    Args:
        node: of a lowered graph, not a loop.
        reached: the values that a gradient reaches.
    """
    if node.op in NOTHING or reached.isdisjoint(node.outputs):
        return ()
    if node.op in RESULT:
        return node.outputs
    if node.op in OPERAND:
        return (node.operands[OPERAND[node.op]],)
    if node.op in BILINEAR:
        one, other = node.operands
        return tuple(read for read, side in ((other, one), (one, other)) if side in reached)
    return node.operands


def kept_by(graph: Graph, reached: Set[Value]) -> Iterator[Value]:
    """The values of a graph that its backward pass reads; of its loops, what their bodies read of the outside."""
    for node in graph.nodes:
        if node.region is None:
            yield from read_by_gradient(node, reached)
            continue
        inside = set(kept_by(node.region, reached))
        yield from (outer for outer, inner in zip(node.operands, node.region.inputs, strict=True) if inner in inside)
