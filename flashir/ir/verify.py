"""Verification: a graph is valid if every node is valid, given the nodes before it. Pipelines verify after a pass."""

from __future__ import annotations

from collections.abc import Iterator

from flashir.errors import FlashirError, IRError, gathered
from flashir.ir.builder import infer_types
from flashir.ir.graph import MODEL_NAME, VALUE_NAME, Graph, Node, Value
from flashir.ir.loops import check_loops
from flashir.ir.op import OPS, opdef
from flashir.ir.parameter_names import check_names
from flashir.ir.text.printer import node_text

CONTEXT = 2  # nodes shown on each side of a faulty one


def verify(graph: Graph) -> None:
    """Raise IRError with every problem, each shown with the nodes around it."""
    problems = list(_problems(graph, f"@{graph.name}"))
    if not problems:
        with gathered(problems):
            check_loops(graph.nodes)
            check_names(graph, is_part=True)
    if problems:
        raise IRError(problems, where=f"@{graph.name}")


def _problems(graph: Graph, where: str) -> Iterator[str]:
    known: set[Value] = set()
    names: set[str] = set()
    if not MODEL_NAME.match(graph.name):
        yield f"{graph.name!r} is not a valid name for a model"
    for value in graph.inputs:
        if not VALUE_NAME.match(value.name):
            yield f"{value.name!r} is not a valid name for a value"
        if value.name in names:
            yield f"{value} is an input twice"
        names.add(value.name)
        known.add(value)
    for position, node in enumerate(graph.nodes):
        faults = list(_node_problems(node, known, names))
        if node.region is not None:
            faults += _problems(node.region, f"{where}, body of {node.op}")
        if faults:
            yield "; ".join(faults) + "\n" + _surroundings(graph, position)
        known.update(node.outputs)
        names.update(value.name for value in node.outputs)
    for value in graph.outputs:
        if value not in known:
            yield f"the result {value}: {value.type} is made by no node of {where}"


def _node_problems(node: Node, known: set[Value], names: set[str]) -> Iterator[str]:
    if node.op not in OPS:
        yield f"unknown op {node.op!r}"
        return
    for value in node.operands:
        if value not in known:
            yield f"{node.op} uses {value}: {value.type}, which no node before it makes"
    own_names = [value.name for value in node.outputs]
    for value in node.outputs:
        if value.name in names or own_names.count(value.name) > 1:
            yield f"{value} is defined twice"
        if not VALUE_NAME.match(value.name):
            yield f"{value.name!r} is not a valid name for a value"
    if not node.verified and (fault := _own_fault(node)):
        yield fault
        return
    node.mark_verified()


def _own_fault(node: Node) -> str | None:
    """What is wrong with a node whatever graph it is in, or None."""
    try:
        record = opdef(node.op)
        least, most = record.arity
        if len(node.inputs) < least or (most is not None and len(node.inputs) > most):
            raise IRError(f"takes {least} operands or more ({', '.join(record.operands)}), got {len(node.inputs)}")
        if record.complete(node.attrs) != dict(node.attrs):
            raise IRError(f"lacks attributes: it has {sorted(node.attrs)}, wants {sorted(record.attrs)}")
        types = infer_types(record, [v.type if v else None for v in node.inputs], node.attrs, node.region)
    except FlashirError as error:
        return f"{node.op}: {error.message}"
    recorded = tuple(value.type for value in node.outputs)
    if types != recorded:
        return f"{node.op} makes {', '.join(map(str, types))}, its results say {', '.join(map(str, recorded))}"
    return None


def _surroundings(graph: Graph, position: int) -> str:
    lines = []
    for at in range(max(0, position - CONTEXT), min(len(graph.nodes), position + CONTEXT + 1)):
        mark = ">>" if at == position else "  "
        try:
            text = node_text(graph.nodes[at]).split("\n")[0]
        except KeyError:  # an unknown op has no record to print by
            node = graph.nodes[at]
            text = f"{', '.join(map(str, node.outputs))} = {node.op}({', '.join(map(str, node.operands))})"
        lines.append(f"    {mark} {text}")
    return "\n".join(lines)
