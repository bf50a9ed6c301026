"""The rewrite driver: a builder that applies rules to each node as it is inserted.

Lowering, constant folding and common subexpression elimination are such rules. The nodes that a rule inserts are
rewritten too, so one walk over the graph reaches the fixed point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flashir.ir.builder import Builder
from flashir.ir.dims import Size
from flashir.ir.graph import Graph, Node, Value
from flashir.ir.op import OPS
from flashir.ir.types import TensorType
from flashir.ops.primitive.shape import substitute_attrs

Rule = Callable[["RewritingBuilder", Node], Sequence[Value] | Value | None]
"""builder, the node to insert -> the values that replace its results, or None if the rule does not match."""


class RewritingBuilder(Builder):
    """A builder that applies the first rule that matches each node to insert."""

    def __init__(self, name: str, rules: Sequence[Rule]) -> None:
        super().__init__(name)
        self.rules = tuple(rules)
        self._results: dict[Any, tuple[Value, ...]] = {}
        self._indexed = 0

    def append(self, node: Node) -> tuple[Value, ...]:
        """Insert the replacement of a node by a rule, or the node itself."""
        for rule in self.rules:
            results = rule(self, node)
            if results is not None:
                return (results,) if isinstance(results, Value) else tuple(results)
        return super().append(node)

    def equal(self, node: Node) -> tuple[Value, ...] | None:
        """The results of an earlier node that computes the same as this one, or None."""
        for earlier in self.nodes[self._indexed :]:
            self._results[_key(earlier)] = earlier.outputs
        self._indexed = len(self.nodes)
        return self._results.get(_key(node))

    def subgraph(self) -> Builder:
        """A builder with the same rules."""
        return RewritingBuilder("body", self.rules)


def _key(node: Node) -> Any:
    """A key that is equal for equal nodes. 1, 1.0 and true are different attributes, and so are 0.0 and -0.0."""
    return node.op, node.inputs, tuple((k, repr(v)) for k, v in node.attrs.items()), node.region


def rewrite(
    graph: Graph,
    *rules: Rule,
    inputs: Sequence[TensorType] | None = None,
    sizes: Mapping[str, Size] | None = None,
) -> Graph:
    """Rebuild a graph under the rules, each region before its node.

    Args:
        graph: the graph to rewrite.
        rules: the rules in order of preference.
        inputs: new types of the inputs; all other types are inferred from them.
        sizes: replacements of symbols, in the types of inputs and in attributes.
    """
    builder = RewritingBuilder(graph.name, rules)
    types = inputs or [value.type.substitute(sizes) if sizes else value.type for value in graph.inputs]
    values: dict[Value, Value] = {}
    for value, type_ in zip(graph.inputs, types, strict=True):
        values[value] = builder.copy_input(value) if type_ == value.type else builder.input(value.name, type_)
    for node in graph.nodes:
        operands = [None if value is None else values[value] for value in node.inputs]
        attrs = substitute_attrs(node.attrs, sizes) if sizes else node.attrs
        region = node.region
        if region is not None:
            arguments = OPS[node.op].region
            assert arguments is not None
            present = [value.type for value in operands if value is not None]
            region = rewrite(region, *rules, inputs=arguments(present, attrs), sizes=sizes)
        if not sizes and _same_types(node, operands, region):
            results = builder.copy(node, operands, region)
        else:
            names = [value.name for value in node.outputs]
            results = builder.insert(node.op, operands, attrs, region, names=names)
        values.update(zip(node.outputs, results, strict=True))
    return builder.finish(*(values[value] for value in graph.outputs))


def _same_types(node: Node, operands: Sequence[Value | None], region: Graph | None) -> bool:
    """Whether new operands and a new region leave the types of the results unchanged."""
    pairs = zip(node.inputs, operands, strict=True)
    return all(old is new or (old and old.type) == (new and new.type) for old, new in pairs) and (
        region is None
        or node.region is None
        or [v.type for v in region.outputs] == [v.type for v in node.region.outputs]
    )
