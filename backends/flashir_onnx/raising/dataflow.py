"""The values of an ONNX graph that depend on the numbers of its input, and the multiplications among them.

At a fixed shape of the input all other values are constants, whatever computes them: sizes, positions, masks, biases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
from onnx import NodeProto, helper

from flashir.errors import ArtefactError
from flashir_onnx.raising.foreign_model import SHOWN, ForeignModel, label

SHAPES = frozenset(("Shape", "Size"))
"""Operators whose results depend only on the shape of their operand."""

MULTIPLIES = frozenset(("MatMul", "Gemm", "Einsum"))
OTHERS = frozenset(
    (
        *("Abs", "Add", "Cast", "Clip", "Concat", "CumSum", "Div", "Dropout", "Erf", "Exp", "Expand", "Flatten"),
        *("Gather", "Identity", "LayerNormalization", "Max", "Min", "Mul", "Neg", "Not", "Pad", "Pow", "Reciprocal"),
        *("ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Sigmoid", "Slice", "Softmax"),
        *("Split", "Sqrt", "Squeeze", "Sub", "Swish", "Tanh", "Transpose", "Unsqueeze", "Where"),
    )
)
"""Operators that layers consist of, besides multiplications."""

WEIGHT, PRODUCT = "weight", "product"


@dataclass(frozen=True)
class Dataflow:
    """The varying values of a graph.

    Args:
        values: an edge from each operand to each result; only values that the output depends on.
        nodes: the node that computes each value.
        input, output: the names of the only input and the only output.
    """

    values: nx.DiGraph[str]
    nodes: Mapping[str, NodeProto]
    input: str
    output: str

    def constants(self, name: str) -> list[str]:
        """The operands of the node of a value that do not vary."""
        return [operand for operand in self.nodes[name].input if operand and operand not in self.values]

    def varying(self, name: str) -> str:
        """The first operand of the node of a value that varies."""
        operands: list[str] = [operand for operand in self.nodes[name].input if operand in self.values]
        return operands[0]

    def between(self, start: str, end: str) -> list[str]:
        """The values on all paths from one to another, in order; without the first."""
        inside = nx.descendants(self.values, start) & (nx.ancestors(self.values, end) | {end})
        return sorted(inside, key=self._order.__getitem__)

    @cached_property
    def _order(self) -> Mapping[str, int]:
        return {name: place for place, name in enumerate(nx.topological_sort(self.values))}

    def kind(self, name: str) -> str | None:
        """Whether a value is a multiplication by a constant (WEIGHT), of two varying values (PRODUCT), or neither."""
        node = self.nodes.get(name)
        if node is None or node.op_type not in MULTIPLIES or (node.op_type == "Einsum" and not summed(node)):
            return None
        return PRODUCT if all(operand in self.values for operand in node.input[:2]) else WEIGHT

    def multiplications(self) -> nx.DiGraph[str]:
        """The multiplications, with an edge where one reaches another without a third. Vertices have their `kind`."""
        kinds = {name: kind for name in self.values if (kind := self.kind(name))}
        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from((name, {"kind": kind}) for name, kind in kinds.items())
        graph.add_edges_from((name, reached) for name in kinds for reached in self._reached(name, kinds))
        return graph

    def _reached(self, start: str, stops: Mapping[str, str]) -> Iterator[str]:
        seen, pending = {start}, [start]
        while pending:
            for name in self.values.successors(pending.pop()):
                if name in stops:
                    yield name
                elif name not in seen:
                    seen.add(name)
                    pending.append(name)


def equation(node: NodeProto) -> tuple[list[str], str]:
    """The labels of the operands of an Einsum, and of its result; an ellipsis stays `...`."""
    text = next(helper.get_attribute_value(a) for a in node.attribute if a.name == "equation").decode()
    operands, _, result = text.replace(" ", "").partition("->")
    return operands.split(","), result


def summed(node: NodeProto) -> set[str]:
    """The labels that an Einsum sums over."""
    operands, result = equation(node)
    return set("".join(operands)) - set(result) - {"."}


def dataflow(foreign: ForeignModel) -> Dataflow:
    """The varying values of a model.

    Raises ArtefactError that lists what no layer consists of: other operators, several inputs or outputs, cycles.
    """
    graph = foreign.model.graph
    inputs = [value.name for value in graph.input if value.name not in foreign.weights.initializers]
    names = f" ({', '.join(inputs[:SHOWN])})" if inputs else ""
    problems = [] if len(inputs) == 1 else [f"it has {len(inputs)} inputs{names}, wanted one"]
    if len(graph.output) != 1:
        names = ", ".join(value.name for value in graph.output[:SHOWN])
        problems.append(f"it has {len(graph.output)} outputs ({names}), wanted one")
    values: nx.DiGraph[str] = nx.DiGraph()
    values.add_nodes_from(inputs)
    nodes: dict[str, NodeProto] = {}
    known = {*inputs, *foreign.weights.initializers}
    for node in graph.node:
        missing = [name for name in node.input if name and name not in known]
        twice = [name for name in node.output if name in known]
        problems += [
            f"{node.op_type} at {label(node)} reads {name!r}, which is not computed before" for name in missing
        ]
        problems += [f"{node.op_type} at {label(node)} computes {name!r} a second time" for name in twice]
        known.update(name for name in node.output if name)
        varying = [] if node.op_type in SHAPES else [name for name in node.input if name in values]
        for result in node.output:
            values.add_edges_from((operand, result) for operand in varying)
            nodes[result] = node
    if not problems:
        output = graph.output[0].name
        values = values.subgraph(nx.ancestors(values, output) | {output} if output in values else ()).copy()
        foreign_ops = {id(nodes[name]): nodes[name] for name in values if name in nodes}.values()
        odd = [node for node in foreign_ops if node.op_type not in MULTIPLIES | OTHERS]
        problems += [f"{node.op_type} at {label(node)} is no part of a flash or gau layer" for node in odd[:SHOWN]]
        if inputs[0] not in values:
            problems.append("its output does not depend on its input")
    if problems:
        raise ArtefactError(problems[: 4 * SHOWN], where=str(foreign.path), hint=HINT)
    return Dataflow(values, nodes, inputs[0], graph.output[0].name)


HINT = "import the weights of the model instead, as safetensors, where its package is known; or write the model as .fir"
