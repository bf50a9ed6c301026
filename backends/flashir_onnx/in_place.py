"""States in place: a host may bind the output of every state to the memory of its input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from enum import Enum, auto

from onnx import GraphProto, NodeProto, TensorProto, helper

from flashir.ir import Graph, Value
from flashir_onnx.emit import rename

RENEWING = frozenset(("put_rows", "add", "add_products"))
"""Ops whose operators can write the result into the memory of their first operand."""

LATE = frozenset(("put_rows", "add_products"))
"""Those that can wait for other readers of their first operand."""


class Update(Enum):
    """How a state is updated."""

    ALONE = auto()
    """Only the op that computes the new state reads the old one, so no order of execution is wrong."""
    LAST = auto()
    """Others read the old state too. It must be written last."""
    COPIED = auto()
    """Anything else. Others must read a copy of the old state."""


def updates(graph: Graph, count: int) -> tuple[Update, ...]:
    """How each of the last `count` inputs becomes the result in its place."""
    readers = Counter(value for node in graph.nodes for value in set(node.operands))
    producers = graph.producers()

    def update(old: Value, new: Value) -> Update:
        node = producers.get(new)
        renewed = node is not None and node.op in RENEWING and node.operands[0] == old and old.type == new.type
        if node is None or not renewed or old in graph.outputs:
            return Update.COPIED
        if readers[old] == 1:
            return Update.ALONE
        return Update.LAST if node.op in LATE and not readers[new] else Update.COPIED

    pairs = zip(graph.inputs[len(graph.inputs) - count :], graph.outputs[len(graph.outputs) - count :], strict=True)
    return tuple(update(*pair) for pair in pairs)


def allow_in_place(model: GraphProto, graph: Graph, count: int, *, portable: bool = False) -> None:
    """Change an emitted graph such that each of its last `count` outputs may overwrite the input in its place.

    A portable graph has a branch for each sum, because OpenVINO 2026.4 does not read one branch for all.
    """
    names = [value.name for value in model.input[len(model.input) - count :]]
    after = [value.name for value in model.output[len(model.output) - count :]]
    pairs = [*zip(names, after, updates(graph, count), strict=True)]
    _put_last(model, [new for _, new, update in pairs if update is Update.LAST], portable)
    for old, new, update in pairs:
        if update is Update.COPIED:
            _read_first(model, old, new)


def _put_last(model: GraphProto, states: Sequence[str], portable: bool) -> None:
    """Write these states after the logits: first those in branches, which read rings, then those with new rows."""
    late: dict[str, list[NodeProto]] = {"If": [], "ScatterND": []}
    nodes: list[NodeProto] = []
    for node in model.node:
        (late[node.op_type] if node.output[0] in states else nodes).append(node)
    before = model.output[0].name
    if late["If"]:
        nodes += _in_branches(late["If"], before, together=not portable)
        before = nodes[-1].output[0]
    if late["ScatterND"]:
        nodes += _after(before, late["ScatterND"])
    del model.node[:]
    model.node.extend(nodes)


def _rows(name: str, value: str) -> NodeProto:
    """The number of rows of a value as a vector of one number, which waits for the value."""
    return helper.make_node("Shape", [value], [name], name=name, start=0, end=1)


def _in_branches(branches: Sequence[NodeProto], before: str, together: bool) -> Iterator[NodeProto]:
    """Branches that wait for a value. One `If` for all with the same condition takes less time than each by itself."""
    groups: dict[tuple[str, str], list[NodeProto]] = {}
    for node in branches:
        groups.setdefault((node.input[0], "" if together else node.name), []).append(node)
    yield _rows("rows_of_logits", before)
    yield helper.make_node("ReduceMax", ["rows_of_logits"], ["last"], name="last", keepdims=0)
    yield helper.make_node("Cast", ["last"], ["is_last"], name="is_last", to=TensorProto.BOOL)
    lates = {condition: f"{condition}/late" for condition, _ in groups}
    for condition, late in lates.items():
        yield helper.make_node("And", [condition, "is_last"], [late], name=late)
    for (condition, _), alike in groups.items():
        bodies: dict[str, GraphProto] = {}
        for node in alike:
            for attribute in node.attribute:
                body = bodies.setdefault(attribute.name, GraphProto(name=attribute.g.name))
                body.node.extend(attribute.g.node)
                body.output.extend(attribute.g.output)
        yield helper.make_node(
            "If", [lates[condition]], [node.output[0] for node in alike], name=alike[0].name, **bodies
        )


def _after(before: str, writers: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """Writers of rows whose places wait for a value: they are reshaped to their own shape, with its number of rows."""
    rows, columns = "rows_before_writing", {}
    yield _rows(rows, before)
    for node in writers:
        places = node.input[1]
        if places not in columns:
            columns[places] = late = f"{places}/late"
            rest, shape = f"{places}/rest", f"{places}/shape"
            yield helper.make_node("Shape", [places], [rest], name=rest, start=1)
            yield helper.make_node("Concat", [rows, rest], [shape], name=shape, axis=0)
            yield helper.make_node("Reshape", [places, shape], [late], name=late)
        node.input[1] = columns[places]
    yield from writers


def _read_first(model: GraphProto, old: str, new: str) -> None:
    """Let all ops read a copy of the old state, and write the new state after that copy.

    The copy is a `Where` with a constant condition, which runtimes neither remove nor compute in place.
    """
    before, after, always = f"{old}/before", f"{old}/after", f"{old}/always"
    rename(model.node, {old: before, new: after})
    nodes = [
        helper.make_node(
            "Constant", [], [always], name=always, value=helper.make_tensor(always, TensorProto.BOOL, [], [True])
        ),
        helper.make_node("Where", [always, old, old], [before], name=before),
        *model.node,
        helper.make_node("Where", [always, after, before], [new], name=f"{new}/written"),
    ]
    del model.node[:]
    model.node.extend(nodes)
