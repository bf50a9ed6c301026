"""What the backward pass reads of the forward: the values that a training step keeps.

%2 = silu(%1); %3 = mul(%2, %0); %4 = add(%3, %0)   ->   %1, %2 and %0 are kept, %3 is not
"""

from __future__ import annotations

from collections.abc import Iterator

from flashir.ir.graph import Graph, Node, Value

NOTHING = frozenset(
    (
        *("add", "sub", "neg", "cast", "reduce_sum", "reduce_mean", "cumsum"),
        *("reshape", "transpose", "broadcast", "pad", "slice", "split", "concat", "reverse"),
        *("constant", "size", "iota", "param", "sinusoid", "less", "less_equal", "logical_and"),
    )
)
"""Ops that are linear, or have no gradient."""

RESULT = frozenset(("relu", "exp", "sqrt", "reciprocal", "sigmoid", "tanh", "softmax"))
"""Ops whose gradient is a function of their result."""

OPERAND = {"select": 0, "gather": 1}
"""Ops whose gradient reads one of their operands alone."""


def read_by_gradient(node: Node) -> tuple[Value, ...]:
    """The values that the gradient of a node reads; without a note above, all its operands."""
    if node.op in NOTHING:
        return ()
    if node.op in RESULT:
        return node.outputs
    if node.op in OPERAND:
        return (node.operands[OPERAND[node.op]],)
    return node.operands


def kept_by(graph: Graph) -> Iterator[Value]:
    """The values of a graph that its backward pass reads; of its loops, what their bodies read of the outside."""
    for node in graph.nodes:
        if node.region is None:
            yield from read_by_gradient(node)
            continue
        inside = set(kept_by(node.region))
        yield from (outer for outer, inner in zip(node.operands, node.region.inputs, strict=True) if inner in inside)
