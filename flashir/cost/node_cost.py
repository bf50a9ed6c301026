"""The cost of one node with all sizes known: what its record says, or what its decomposition adds up to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from flashir.ir.builder import Builder
from flashir.ir.cost import Cost, Types, moved
from flashir.ir.graph import Attr, Graph, Node, Value
from flashir.ir.op import OPS
from flashir.ir.types import TensorType
from flashir.ops.primitive.shape import bind_attrs
from flashir.transforms.lower import Lower

Sizes = Mapping[str, int]


def node_cost(node: Node, sizes: Sizes, type_of: Callable[[Value], TensorType] | None = None) -> Cost:
    """The cost of a node, including its body.

    Args:
        node: a node with settled choices.
        sizes: the value of each symbol in its types and attributes.
        type_of: the types of values with these sizes, if they are already known.
    """
    known = type_of or (lambda value: value.type.bind(sizes))
    attrs: dict[str, Any] = bind_attrs(dict(node.attrs), dict(sizes))
    ins = tuple(None if value is None else known(value) for value in node.inputs)
    outs = tuple(known(value) for value in node.outputs)
    rule = OPS[node.op].cost
    if rule is None:
        return _derived(node.op, ins, outs, tuple(attrs.items()))
    body = {} if node.region is None else {"body": graph_cost(node.region, sizes)}
    return rule(ins, outs, **attrs, **body)


def graph_cost(graph: Graph, sizes: Sizes) -> Cost:
    """The costs of all nodes of a graph together."""
    return sum((node_cost(node, sizes) for node in graph.nodes), Cost(steps=0))


@lru_cache(maxsize=256)
def _derived(op: str, ins: Types, outs: Types, attrs: tuple[tuple[str, Attr], ...]) -> Cost:
    """The arithmetic of the decomposition; operands and parameters are read once, and results written once."""
    b = Builder(op)
    operands = [None if type_ is None else b.input(f"x{place}", type_) for place, type_ in enumerate(ins)]
    parts = Lower().apply(b.finish(*b.insert(op, operands, dict(attrs))))
    costs = [node_cost(node, {}) for node in parts.nodes]
    total = sum(costs, Cost(steps=0))
    parameters = tuple(node.output.type for node in parts.nodes if OPS[node.op].params is not None)
    longest = max((cost.steps for cost in costs), default=0)
    return replace(moved((*ins, *parameters), outs), flops=total.flops, contractions=total.contractions, steps=longest)
