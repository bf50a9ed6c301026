"""The choices of a model: the open (`auto`) attributes, the slots that nodes share, and the passes that settle them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from functools import cache
from typing import Any, ClassVar

from flashir.errors import SettingError
from flashir.ir.builder import infer_types
from flashir.ir.choices import Choice
from flashir.ir.graph import AUTO, Attr, Graph, Node
from flashir.ir.settings import Settings, attribute_of
from flashir.ops import OPS
from flashir.transforms.pipeline import Pass


@dataclass(frozen=True)
class Slot:
    """One choice of a model.

    Args:
        name: `chunk`; `flash.chunk` if this choice is open in several ops.
        op: the op whose nodes share the slot.
        choice: how the attribute gets a value.
        candidates: the possible values; only one if the slot is settled or forced.
        is_open: whether a node is still `auto` with several candidates.
        is_forced: whether other attributes leave an `auto` node only one value.
    """

    name: str
    op: str
    choice: Choice
    candidates: tuple[Attr, ...]
    is_open: bool = False
    is_forced: bool = False

    def text(self, value: Attr) -> str:
        """The value as text: `chunk 256`."""
        owner = f" of {self.op}" if self.name != attribute_of(self.name) else ""
        return self.choice.text(value) + owner


def slots(graph: Graph) -> tuple[Slot, ...]:
    """The choices of a model: first those that change its function, then lengths, then strategies.

    Nodes of one op share a slot. Different ops have different slots, because the best value for one may not suit
    another. Nodes to which a choice makes no difference are ignored.
    """
    by_key: dict[tuple[str, str], list[Node]] = {}
    for node in choosers(graph):
        for attr, choice in OPS[node.op].choices.items():
            if choice.candidates(node):
                by_key.setdefault((attr, node.op), []).append(node)
    unnamed = [_slot(attr, op, nodes) for (attr, op), nodes in by_key.items()]
    several = {attr for attr, _ in by_key if sum(slot.name == attr and slot.is_open for slot in unnamed) > 1}
    merged: list[Slot] = []
    for attr in dict.fromkeys(attr for attr, _ in by_key):
        own = [slot for slot in unnamed if slot.name == attr]
        opened = [slot for slot in own if slot.is_open]
        named = [replace(slot, name=f"{slot.op}.{attr}") for slot in opened]
        merged += named if attr in several else (opened or own)[:1]
    return tuple(sorted(merged, key=lambda slot: (not slot.choice.changes_function, not slot.choice.is_length)))


def _slot(attr: str, op: str, nodes: Sequence[Node]) -> Slot:
    choice = OPS[op].choices[attr]
    open_nodes = [node for node in nodes if is_open(node, attr)]
    candidates = max((choice.candidates(node) for node in open_nodes), key=len, default=())
    if len(candidates) > 1:
        return Slot(attr, op, choice, candidates, is_open=True)
    settled = [node.attrs[attr] for node in nodes if not is_open(node, attr)]
    return Slot(attr, op, choice, candidates or (settled[0],), is_forced=bool(candidates))


def settle(graph: Graph, settings: Mapping[str, Attr], *, all_forced: bool = True) -> Graph:
    """The graph with open choices set to the values in `settings`.

    `flash.chunk` applies to nodes of `flash`, `chunk` to nodes of every op. A node with only one candidate gets that
    one, and a node to which the choice makes no difference gets the idle value.

    Args:
        graph: the model.
        settings: values by slot name.
        all_forced: settle nodes with at most one candidate also in choices that `settings` do not name.

    Raises:
        SettingError: a node cannot have the value.
    """

    def settled(node: Node) -> dict[str, Attr]:
        changed: dict[str, Attr] = {}
        for attr, choice in OPS[node.op].choices.items():
            if not is_open(node, attr):
                continue
            name = f"{node.op}.{attr}" if f"{node.op}.{attr}" in settings else attr
            if name in settings and (refusal := choice.refusal(node, settings[name])):
                raise SettingError(f"{attr} {refusal}")
            if name in settings or (all_forced and len(choice.candidates(node)) < 2):
                changed[attr] = choice.value_of(node, settings.get(name))
        return changed

    return _with_attrs(graph, settled)


@dataclass(frozen=True)
class _Choose(Pass):
    """`flash(%h) {chunk = auto}` -> `flash(%h) {chunk = 256}`. There is one such pass per choice.

    Its only option is the value. Without it, only nodes with at most one candidate are settled.
    """

    optional = False
    attr: ClassVar[str]

    def apply(self, graph: Graph) -> Graph:
        """Settle the choice. Raises SettingError if a value is needed and there is none."""
        value = getattr(self, self.attr)
        settled = settle(graph, {} if value is None else {self.attr: value})
        if value is None and any(is_open(node, self.attr) for node in settled.walk()):
            raise SettingError(f"{self.name} needs a value", hint=f"such as {self.name}{{{self.attr}=..}}")
        return settled


def choose_passes() -> dict[str, type[Pass]]:
    """The passes `choose-chunk` and so on by name, one per choice of an op."""
    return {f"choose-{attr}": _choose_pass(attr) for attr in choice_names()}


@cache
def _choose_pass(attr: str) -> type[Pass]:
    (kind, *_) = next(record.attrs[attr].kind for record in OPS.values() if attr in record.choices)
    option = (attr, kind | None, field(default=None))
    facts = {"name": f"choose-{attr}", "attr": attr, "__doc__": _Choose.__doc__, "__module__": __name__}
    return make_dataclass(f"Choose{attr.title()}", [option], bases=(_Choose,), frozen=True, namespace=facts)


def reset(graph: Graph, attr: str) -> Graph:
    """The graph with a choice `auto` in every node that has it."""
    return _with_attrs(graph, lambda node: {attr: AUTO} if attr in OPS[node.op].choices else {})


def reset_execution(graph: Graph) -> Graph:
    """The graph with every choice that does not change the function `auto` again, such as a tile or a cumsum."""

    def reopened(node: Node) -> Mapping[str, Attr]:
        return {attr: AUTO for attr, choice in OPS[node.op].choices.items() if not choice.changes_function}

    return _with_attrs(graph, reopened)


def undecided(graph: Graph) -> tuple[str, ...]:
    """The open choices that change the function of the model, such as `chunk`."""
    return tuple(dict.fromkeys(attr for node, attr in locking(graph) if is_open(node, attr)))


def _with_attrs(graph: Graph, changes: Callable[[Node], Mapping[str, Attr]]) -> Graph:
    """The graph with other attributes on some nodes, also in regions. Values keep their names and types."""
    nodes = []
    for node in graph.nodes:
        region = None if node.region is None else _with_attrs(node.region, changes)
        changed = changes(node)
        if changed or region != node.region:
            node = replace(node, attrs={**node.attrs, **changed}, region=region)
            types = [None if value is None else value.type for value in node.inputs]
            infer_types(OPS[node.op], types, node.attrs, region)  # raises if the op rejects the value
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def is_open(node: Node, attr: str) -> bool:
    """Whether an attribute of the node is still `auto`."""
    return node.attrs.get(attr) is AUTO


def has_open(graph: Graph) -> bool:
    """Whether any choice of a model is still `auto`."""
    return any(is_open(node, attr) for node in choosers(graph) for attr in OPS[node.op].choices)


def choosers(graph: Graph) -> Iterator[Node]:
    """The nodes that have a choice, open or not."""
    return (node for node in graph.walk() if OPS[node.op].choices)


def choice_names() -> tuple[str, ...]:
    """The attributes of all ops that are choices."""
    return tuple(sorted({attr for record in OPS.values() for attr in record.choices}))


def locking(graph: Graph) -> Iterator[tuple[Node, str]]:
    """The choices that change the function of a model, as node and attribute."""
    for node in choosers(graph):
        for attr, choice in OPS[node.op].choices.items():
            if choice.changes_function:
                yield node, attr


def same_function(graph: Graph, settings: Settings) -> Settings:
    """The settings that change the function. Candidates with equal ones compute the same function."""
    changing = {attr for _, attr in locking(graph)}
    return Settings({name: value for name, value in settings.items() if attribute_of(name) in changing})


def longest_piece(graph: Graph, *, changing_function: bool = False) -> int:
    """The largest length among the choices of a settled model, in tokens; 0 if it has none.

    Args:
        graph: the model.
        changing_function: consider only choices that change the function.
    """
    lengths = (
        node.attrs[attr]
        for node in choosers(graph)
        for attr, choice in OPS[node.op].choices.items()
        if choice.is_length and choice.candidates(node) and choice.changes_function >= changing_function
    )
    return max((length for length in lengths if isinstance(length, int)), default=0)


def settled_values(graph: Graph, attr: str) -> tuple[Any, ...]:
    """The settled values of a choice in a graph, in ascending order and without repetition."""
    values = {node.attrs[attr] for node in choosers(graph) if attr in OPS[node.op].choices and not is_open(node, attr)}
    return tuple(sorted(values, key=lambda value: (str(type(value)), value)))
