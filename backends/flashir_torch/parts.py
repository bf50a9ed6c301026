"""Split the body of a `repeat` into layers, each of which becomes a module with its own parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from flashir.ir import Graph, Node, Value
from flashir.ir.parameter_names import full_name

_LAYER = re.compile(r"layers\.(\{[^}]*\}|\d+)\.")


@dataclass(frozen=True)
class Part:
    """Consecutive nodes.

    Args:
        prefix: the prefix of their parameters, such as `layers.{i}.`; empty if they are not a layer.
        nodes: the nodes in order.
        inputs: the values that they read from other parts.
        outputs: the values that other parts read.
    """

    prefix: str
    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()


def parts(body: Graph) -> list[Part]:
    """Split the nodes of a body where the parameters of another layer start.

    A layer that is interrupted by other nodes would be two modules of one name, so it does not become a module.
    """
    cut = list(_cut(body.nodes))
    prefixes = [part.prefix for part in cut]
    cut = [part if prefixes.count(part.prefix) == 1 else replace(part, prefix="") for part in cut]
    return [_with_interface(part, cut[i + 1 :], body.outputs) for i, part in enumerate(cut)]


def layer_of(node: Node) -> str:
    """`layers.{i}.` for a parameter `layers.{i}.norm.scale`; empty for any other node."""
    match = _LAYER.match(full_name(node, str(node.attrs["name"]))) if node.op == "param" else None
    return match.group() if match else ""


def _cut(nodes: Sequence[Node]) -> Iterator[Part]:
    """Shared parameters come first, so that they split nothing. A nested `repeat` is a part of its own."""
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
    produced = {value: None for node in part.nodes for value in node.outputs}
    used = {value: None for node in part.nodes for value in node.operands if value not in produced}
    wanted = {value for other in after for node in other.nodes for value in node.operands} | set(results)
    return replace(part, inputs=tuple(used), outputs=tuple(value for value in produced if value in wanted))
