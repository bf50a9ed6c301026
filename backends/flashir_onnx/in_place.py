"""States in place: a host may bind the output of every state to the memory of its input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum, auto

from onnx import GraphProto, NodeProto, TensorProto, helper

from flashir.ir import Graph, Value
from flashir_onnx.emit import rename

RENEWING = frozenset(("put_rows", "add"))
"""Ops whose operators can write the result into the memory of their first operand."""


class Update(Enum):
    """How a state is updated."""

    ALONE = auto()
    """Only the op that computes the new state reads the old one, so no order of execution is wrong."""
    LAST = auto()
    """Rows are put into it, and others read the old state. The rows must be put there last."""
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
        return Update.LAST if node.op == "put_rows" and not readers[new] else Update.COPIED

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
    """Put rows into these states after the logits are computed.

    Their places are reshaped to their own shape, for which the logits say the number of rows.
    """
    writers = {node.output[0]: node for node in model.node if node.output and node.output[0] in states}
    if not writers:
        return
    rows, columns = "rows_of_logits", {}
    nodes: list[NodeProto] = [node for node in model.node if node.output[0] not in writers]
    nodes.append(helper.make_node("Shape", [model.output[0].name], [rows], name=rows, start=0, end=1))
    for node in writers.values():
        places = node.input[1]
        if places not in columns:
            columns[places] = late = f"{places}/late"
            rest, shape = f"{places}/rest", f"{places}/shape"
            nodes += [
                helper.make_node("Shape", [places], [rest], name=rest, start=1),
                helper.make_node("Concat", [rows, rest], [shape], name=shape, axis=0),
                helper.make_node("Reshape", [places, shape], [late], name=late),
            ]
        node.input[1] = columns[places]
    del model.node[:]
    model.node.extend([*nodes, *writers.values()])


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
