"""lower: replace every op that the target does not claim by its decomposition (claim or descend).

`flashir.backends.lowering` runs this pass among the others, with the `claims` of a backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flashir.errors import TargetError
from flashir.ir.builder import Builder
from flashir.ir.graph import AUTO, Graph, Node, Value
from flashir.ir.op import OPS, ParamSpec
from flashir.ir.parameter_names import full_name, with_scopes
from flashir.transforms.pipeline import Pass
from flashir.transforms.rewriter import Rule, rewrite

Claims = Callable[[Node], bool]


def primitives(node: Node) -> bool:
    """Claim only ops without a decomposition: the lowest level."""
    return OPS[node.op].is_primitive


@dataclass(frozen=True)
class Lower(Pass):
    """`flash(%h)` -> its decomposition, repeatedly, until `claims` accepts every op.

    Raises TargetError if an op is neither claimed nor composite, or a choice is still open.
    """

    name = "lower"
    optional = False
    target: str = "primitives"
    claims: Claims = field(default=primitives, repr=False)

    def apply(self, graph: Graph) -> Graph:
        """Give the parameters their full names, then lower every node."""
        return rewrite(with_scopes(graph), descend(self.claims, self.target))


@dataclass(frozen=True)
class Decompose(Pass):
    """Replace only the named ops by their decompositions: `decompose{ops=einsum}`."""

    name = "decompose"
    ops: tuple[str, ...] = ()

    def apply(self, graph: Graph) -> Graph:
        """Decompose the named ops, also inside regions."""
        if not any(node.op in self.ops for node in graph.walk()):
            return graph
        return rewrite(with_scopes(graph), descend(lambda node: node.op not in self.ops, "all"))


@dataclass(frozen=True)
class EinsumToMatmul(Pass):
    """`einsum(%x, %y) {equation = "bns,bms->bnm"}` -> `matmul(%x, %y) {transpose_y = true}`"""

    name = "einsum-to-matmul"

    def apply(self, graph: Graph) -> Graph:
        """Replace every einsum by one matmul, and by transposes that can be views."""
        return Decompose(("einsum",)).apply(graph)


def descend(claims: Claims, target: str) -> Rule:
    """The rule that decomposes ops that are not claimed."""

    def rule(b: Builder, node: Node) -> Sequence[Value] | Value | None:
        if claims(node):
            return None
        record = OPS[node.op]
        if record.decompose is None:
            raise TargetError(f"{target} cannot do the op {node.op!r}, and it has no decomposition")
        still_open = [name for name, value in node.attrs.items() if value is AUTO]
        if still_open:
            raise TargetError(
                f"{' and '.join(still_open)} of {node.op} must be chosen before it can be lowered",
                hint=f"run {' and '.join(f'choose-{name}' for name in still_open)}, or set {' and '.join(still_open)}",
            )
        results: Sequence[Value] | Value = record.decompose(b, *node.inputs, **node.attrs, **own_parameters(b, node))
        return results

    return rule


def own_parameters(b: Builder, node: Node) -> dict[str, Any]:
    """The argument `p` for the rules of a block that owns parameters; empty for any other op."""
    return {"p": _Parameters(b, node)} if OPS[node.op].params is not None else {}


class _Parameters(dict[str, Value]):
    """The parameters of a block by local name. Their `param` nodes are inserted on first access."""

    def __init__(self, b: Builder, node: Node) -> None:
        super().__init__()
        record = OPS[node.op]
        assert record.params is not None
        self.b, self.node = b, node
        self.specs: dict[str, ParamSpec] = record.params(*(v.type if v else None for v in node.inputs), **node.attrs)
        floats = [v.type.dtype for v in (*node.operands, *node.outputs) if v.type.dtype.is_float]
        self.dtype = floats[0]

    def __missing__(self, local: str) -> Value:
        spec = self.specs[local]
        name: Any = full_name(self.node, local)
        parameter: Value = self.b.param(
            name=name,
            shape=spec.shape,
            dtype=self.dtype,
            mean=spec.mean,
            std=spec.std,
            fan_in=spec.fan_in,
            raised=spec.raised,
            scope="",
        )
        self[local] = parameter
        return parameter
