"""The facts of a node: types, attributes, parameters, and its cost on a target."""

from __future__ import annotations

from math import prod
from typing import Any

from flashir.cost import Target
from flashir.cost.node_cost import Sizes, node_cost
from flashir.errors import FlashirError
from flashir.ir import Node
from flashir.ir.parameter_names import full_name
from flashir.ir.text.printer import attr_text
from flashir.ops import OPS, Cost

UNSEEN = ("scope", "std", "mean", "valid")
"""Attributes that cards leave out."""

TELLING = ("chunk", "tile", "cumsum", "expansion", "key_dim", "heads", "causal")
"""Attributes that cards show even at their defaults."""


def family(node: Node) -> str:
    """The family of an op, which decides its colour."""
    record = OPS[node.op]
    if node.op in ("param", "constant", "iota", "size"):
        return "source"
    if node.region is not None:
        return "loop"
    if record.params is not None:
        return "block"
    home = record.ref.__module__.rpartition(".")[2]
    return home if home in ("attention", "contraction", "norm", "position", "prefix", "shape") else "elementwise"


def level(node: Node) -> str:
    """The level of an op: block, composite or primitive."""
    record = OPS[node.op]
    if record.params is not None and node.op != "param":
        return "block"
    return "primitive" if record.is_primitive else "composite"


def attributes(node: Node, *, every: bool = False) -> list[tuple[str, str]]:
    """The attributes of a node as text. Defaults are left out unless `every` is set."""
    specs = OPS[node.op].attrs
    return [
        (name, attr_text(value))
        for name, value in node.attrs.items()
        if every
        or (name in TELLING and OPS[node.op].params is not None)
        or not (name in UNSEEN or (type(specs[name].default) is type(value) and specs[name].default == value))
    ]


def facts(node: Node, settled: Node, sizes: Sizes, target: Target, times: int) -> dict[str, Any]:
    """The facts that the page shows about a node.

    Args:
        node: the node on the page.
        settled: the same node with every choice settled, for its cost.
        sizes: the value of each symbolic size.
        target: the target that the cost is shown for.
        times: how often the node runs.
    """
    record = OPS[node.op]
    names = [name.rstrip("?*") for name in record.operands]
    return {
        "op": node.op,
        "storey": level(node),
        "doc": record.doc,
        "results": [[str(value), str(value.type)] for value in node.outputs],
        "operands": [
            [names[min(place, len(names) - 1)] if names else "", str(value), str(value.type)]
            for place, value in enumerate(node.inputs)
            if value is not None
        ],
        "attributes": [[name, text] for name, text in attributes(node, every=True)],
        "parameters": _parameters(node),
        "times": times,
        "cost": _cost_facts(settled, sizes, target, times),
    }


def seconds(cost: Cost, target: Target) -> float:
    """Estimate the seconds of an op on its own: the larger of arithmetic and memory traffic, plus the launch."""
    if cost.steps == 0:
        return 0.0
    arithmetic = cost.matrix_flops / (target.peak["f32"] * target.efficiency) + cost.flops / target.vector
    return max(arithmetic, cost.bytes / target.bandwidth) + target.launch


def cost_of(node: Node, sizes: Sizes) -> Cost | None:
    """The cost of a node; None if a choice is still open."""
    try:
        return node_cost(node, sizes)
    except (FlashirError, TypeError, KeyError):
        return None


def _parameters(node: Node) -> list[list[str]]:
    record = OPS[node.op]
    if record.params is None:
        return []
    specs = record.params(*(value.type if value else None for value in node.inputs), **node.attrs)
    named = node.attrs.get("scope") is not None
    return [
        [full_name(node, local) if named else local, str(list(spec.shape)), f"{prod(spec.shape):,}"]
        for local, spec in specs.items()
    ]


def _cost_facts(node: Node, sizes: Sizes, target: Target, times: int) -> dict[str, float] | None:
    cost = cost_of(node, sizes)
    if cost is None:
        return None
    return {
        "matrix": float(cost.matrix_flops) * times,
        "vector": float(cost.flops) * times,
        "bytes": float(cost.bytes) * times,
        "ms": 1e3 * seconds(cost, target) * times,
    }
