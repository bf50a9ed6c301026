"""Graph -> text. `loads(dumps(g)) == g` holds exactly, at every level. Default attributes are omitted."""

from __future__ import annotations

import json
from collections.abc import Iterable

from flashir.arguments import typed
from flashir.ir.graph import Attr, Graph, Node, Value
from flashir.ir.op import OPS


@typed
def dumps(graph: Graph, *, types: bool = False) -> str:
    """The graph as IR text, with the type of each result if `types`."""
    head = ", ".join(f"{v}: {v.type}" for v in graph.inputs)
    results = ", ".join(str(v.type) for v in graph.outputs)
    lines = [f"model @{graph.name}({head}) -> {results} {{"]
    for node in graph.nodes:
        lines += _node_lines(node, "  ", types)
    lines.append(f"  return {_names(graph.outputs)}")
    return "\n".join([*lines, "}"]) + "\n"


def node_text(node: Node, *, types: bool = True) -> str:
    """One node as IR text, including its body."""
    return "\n".join(_node_lines(node, "", types))


def attr_text(value: Attr) -> str:
    """One attribute value as IR text."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, tuple):
        return f"[{', '.join(map(attr_text, value))}]"
    return repr(value)


def _node_lines(node: Node, indent: str, types: bool) -> list[str]:
    line = f"{indent}{_names(node.outputs)} = {node.op}({_operands(node)}){_attrs(node)}"
    ascription = " : " + ", ".join(str(v.type) for v in node.outputs) if types else ""
    if node.region is None:
        return [line + ascription]
    body = node.region
    lines = [f"{line} ({_names(body.inputs)}) {{"]
    for inner in body.nodes:
        lines += _node_lines(inner, indent + "  ", types)
    return [*lines, f"{indent}  yield {_names(body.outputs)}", f"{indent}}}{ascription}"]


def _operands(node: Node) -> str:
    """The operands in order. Optional operands and those after an absent one are named."""
    names = OPS[node.op].operands
    texts, gap = [], False
    for position, value in enumerate(node.inputs):
        if value is None:
            gap = True
        else:
            optional = position < len(names) and names[position].endswith("?")
            texts.append(f"{names[position].rstrip('?')} = {value}" if gap or optional else str(value))
    return ", ".join(texts)


def _attrs(node: Node) -> str:
    specs = OPS[node.op].attrs
    shown = [f"{k} = {attr_text(v)}" for k, v in node.attrs.items() if not _is_default(specs[k].default, v)]
    return f" {{{', '.join(shown)}}}" if shown else ""


def _is_default(default: object, value: Attr) -> bool:
    return repr(default) == repr(value)  # -0.0 is not 0.0, nor is 1.0 1


def _names(values: Iterable[Value]) -> str:
    return ", ".join(map(str, values))


Graph.__str__ = dumps  # type: ignore[assignment, method-assign]  # a graph prints as text, and knows no printer
