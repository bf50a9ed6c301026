"""The body of a `repeat` cut into layers: each becomes a module of its own, which has its parameters and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from flashir.ir import Graph, Node, Value
from flashir.ir.parameter_names import full_name

_LAYER = re.compile(r"layers\.(\{[^}]*\}|\d+)\.")


@dataclass(frozen=True)
class Part:
    """Some nodes in a row.

    Args:
        prefix: how the parameters among them begin, such as `layers.{i}.`; empty where they make no layer.
        nodes: in order.
        inputs: what they take from elsewhere.
        outputs: what is needed of them elsewhere.
    """

    prefix: str
    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()


def parts(body: Graph) -> list[Part]:
    """The nodes of a body in parts: a new one starts where the parameters of another layer do.

    A layer that comes twice, with something between, would be two modules of one name: it is none.
    """
    cut = list(_cut(body.nodes))
    prefixes = [part.prefix for part in cut]
    cut = [part if prefixes.count(part.prefix) == 1 else replace(part, prefix="") for part in cut]
    return [_with_interface(part, cut[i + 1 :], body.outputs) for i, part in enumerate(cut)]


def layer_of(node: Node) -> str:
    """`layers.{i}.` for a parameter `layers.{i}.norm.scale`; empty for all that is not a parameter of a layer."""
    found = _LAYER.match(full_name(node, str(node.attrs["name"]))) if node.op == "param" else None
    return found.group() if found else ""


def _cut(nodes: Sequence[Node]) -> Iterator[Part]:
    """Parameters of no layer first, so that they part nothing; loops of layers by themselves."""
    shared = tuple(node for node in nodes if node.op == "param" and not layer_of(node))
    if shared:
        yield Part("", shared)
    rest = [node for node in nodes if node not in shared]
    prefix = next((layer_of(node) for node in rest if layer_of(node)), "")
    taken: list[Node] = []
    for node in rest:
        starts = layer_of(node) or prefix
        if taken and (starts != prefix or node.op == "repeat"):
            yield Part(prefix, tuple(taken))
            taken = []
        if node.op == "repeat":
            yield Part("", (node,))
            prefix = ""
            continue
        prefix = starts
        taken.append(node)
    if taken:
        yield Part(prefix, tuple(taken))


def _with_interface(part: Part, after: Sequence[Part], results: Sequence[Value]) -> Part:
    made = {value: None for node in part.nodes for value in node.outputs}
    used = {value: None for node in part.nodes for value in node.operands if value not in made}
    wanted = {value for other in after for node in other.nodes for value in node.operands} | set(results)
    return replace(part, inputs=tuple(used), outputs=tuple(value for value in made if value in wanted))
