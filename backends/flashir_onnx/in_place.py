"""States in place: a host may bind the output of every state to the memory of its input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from enum import Enum, auto

from onnx import GraphProto, NodeProto, TensorProto, helper

from flashir.ir import Graph, Value
from flashir_onnx import closed_sums
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


def allow_in_place(model: GraphProto, graph: Graph, count: int) -> None:
    """Change an emitted graph such that each of its last `count` outputs may overwrite the input in its place."""
    names = [value.name for value in model.input[len(model.input) - count :]]
    after = [value.name for value in model.output[len(model.output) - count :]]
    pairs = [*zip(names, after, updates(graph, count), strict=True)]
    _put_last(model, [new for _, new, update in pairs if update is Update.LAST])
    for old, new, update in pairs:
        if update is Update.COPIED:
            _read_first(model, old, new)


def _put_last(model: GraphProto, states: Sequence[str]) -> None:
    """Write these states after the logits: first sums, which read rings, then what gets new rows."""
    late: dict[str, list[NodeProto]] = {"If": [], "Add": [], "ScatterND": []}
    nodes: list[NodeProto] = []
    for node in model.node:
        (late[node.op_type] if node.output[0] in states else nodes).append(node)
    branches, sums, writers = late.values()
    before = [model.output[0].name]
    if branches or sums:
        nodes += _once_written(before[0])
    if branches:
        nodes += (joined := [*_in_branches(branches)])
        before = [node.output[0] for node in joined if node.op_type == "If"]
    if sums:
        nodes = [*_in_order([*nodes, *_waiting(nodes), *sums])]
        before = [node.output[0] for node in sums]
    if writers:
        nodes += _after(before, writers)
    del model.node[:]
    model.node.extend(nodes)


WRITTEN = "logits_are_written"


def _once_written(value: str) -> Iterator[NodeProto]:
    """A condition that is always true, once the value is written."""
    yield _rows("rows_of_logits", value)
    yield helper.make_node("ReduceMax", ["rows_of_logits"], ["last"], name="last", keepdims=0)
    yield helper.make_node("Cast", ["last"], [WRITTEN], name=WRITTEN, to=TensorProto.BOOL)


def _rows(name: str, value: str) -> NodeProto:
    """The number of rows of a value as a vector of one number, which waits for the value."""
    return helper.make_node("Shape", [value], [name], name=name, start=0, end=1)


def _late(condition: str) -> NodeProto:
    """The condition, which waits for the logits."""
    return helper.make_node("And", [condition, WRITTEN], [f"{condition}/late"], name=f"{condition}/late")


def _in_branches(branches: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """Branches that wait for the logits. One `If` for all with the same condition takes less time than each alone."""
    groups: dict[str, list[NodeProto]] = {}
    for node in branches:
        groups.setdefault(node.input[0], []).append(node)
    for condition, alike in groups.items():
        yield (late := _late(condition))
        bodies: dict[str, GraphProto] = {}
        for node in alike:
            for attribute in node.attribute:
                body = bodies.setdefault(attribute.name, GraphProto(name=attribute.g.name))
                body.node.extend(attribute.g.node)
                body.output.extend(attribute.g.output)
        results = [node.output[0] for node in alike]
        yield helper.make_node("If", late.output, results, name=alike[0].name, **bodies)


def _waiting(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """Let the numbers of rows that are multiplied wait for the logits, and so the products and sums."""
    lates: dict[str, NodeProto] = {}
    for node in nodes:
        if node.name.startswith(closed_sums.ROWS):
            late = lates.setdefault(node.input[0], _late(node.input[0]))
            node.input[0] = late.output[0]
    yield from lates.values()


def _in_order(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """The nodes, each moved behind those that it reads."""
    missing = {name for node in nodes for name in node.output}
    while nodes:
        rest = []
        for node in nodes:
            if missing.isdisjoint(node.input):
                missing.difference_update(node.output)
                yield node
            else:
                rest.append(node)
        nodes = rest


def _after(before: Sequence[str], writers: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """Writers of rows whose places wait for values: they are reshaped to their own shape, with the number of rows."""
    counts = [_rows(f"{name}/rows", name) for name in before]
    yield from counts
    rows, columns = "rows_before_writing", {}
    yield helper.make_node("Max", [count.output[0] for count in counts], [rows], name=rows)
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
