"""The cost of a composite op as the sum of what it is made of, for records that state none of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flashir.ir.builder import Builder
from flashir.ir.cost import Cost, CostRule, Types
from flashir.ir.graph import Node
from flashir.ir.op import OPS, opdef
from flashir.ir.types import TensorType


def cost_of_parts(op: str) -> CostRule:
    """The rule of an op: the sum over the nodes of its decomposition, as if none of them were fused."""

    def rule(ins: Types, outs: Types, **attrs: Any) -> Cost:
        record, b = opdef(op), Builder("cost")
        assert record.decompose is not None
        operands = [None if type_ is None else b.input(f"x{i}", type_) for i, type_ in enumerate(ins)]
        given = [type_ for type_ in ins if type_ is not None]
        own: dict[str, Any] = {}
        if record.params is not None:
            specs = record.params(*ins, **attrs)
            own["p"] = {
                name: b.input(f"p{i}", TensorType(given[0].dtype, specs[name].shape)) for i, name in enumerate(specs)
            }
        record.decompose(b, *operands, **attrs, **own)
        return _sum(b.nodes)

    return rule


def _sum(nodes: Iterable[Node]) -> Cost:
    total = Cost(steps=0)
    for node in nodes:
        ins, outs = (tuple(None if v is None else v.type for v in values) for values in (node.inputs, node.outputs))
        body = {} if node.region is None else {"body": _sum(node.region.nodes)}
        total = total + OPS[node.op].cost(ins, outs, **node.attrs, **body)
    return total
