"""How a decoder updates its states: what OpenVINO computes in every call, and what is written after it.

OpenVINO copies an input that a node overwrites, and copies results. So a model that takes a ring of keys, writes a few
rows and returns the ring copies it. Here such a model is changed to return the new rows and their places, which are
written into the memory of the ring after the call. Sums that change only where a chunk closes become a model of their
own, which runs then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashir_onnx.closed_sums import ROWS

if TYPE_CHECKING:
    from openvino import Model, Node, Output


@dataclass(frozen=True)
class Sums:
    """The sums that change where a chunk closes.

    Args:
        model: returns the new sums. It takes inputs and states of the main model, and new rows.
        numbers: the numbers of the states that it returns, in order.
        rows: the result of the main model with new rows, by the name of the input that takes them.
        closing: the results of the main model of which one is true if a chunk closes.
    """

    model: Model
    numbers: tuple[int, ...]
    rows: Mapping[str, int]
    closing: tuple[int, ...]


@dataclass(frozen=True)
class Updates:
    """A model, and how its states, which are numbered, change.

    Args:
        model: returns the first result, and then what the other fields number.
        rows: by state, the result with places [.., t, axes before the last] and the one with new rows [.., t, d].
        whole: by state, the result that is the new state.
        sums: what updates the other states; None if there are none.
    """

    model: Model
    rows: Mapping[int, tuple[int, int]]
    whole: Mapping[int, int]
    sums: Sums | None


def updates_of(model: Model, names: Sequence[str], count: int) -> Updates:
    """The updates of a model that takes inputs of these names, and returns a first result and its last `count` inputs.

    The sums apart depend on nothing of the first input, tokens, but its sizes: they would need all weights again.
    """
    first, *results = (result.input_value(0) for result in model.get_results())
    states = names[len(names) - count :]
    writers = {number: output.get_node() for number, output in enumerate(results) if _writes(output, states[number])}
    closing = [node for node in model.get_ops() if node.get_friendly_name().startswith(ROWS)]
    late = [n for n, output in enumerate(results) if n not in writers and closing and _reads(output, closing)]
    sums = _sums(model, late, writers) if late else None
    if sums is None or _values_are_read(sums, names[0]):
        sums, late, closing = None, [], []

    outputs = [first]

    def place(output: Output) -> int:
        if output not in outputs:
            outputs.append(output)
        return outputs.index(output)

    rows = {number: (place(node.input_value(1)), place(node.input_value(2))) for number, node in writers.items()}
    whole = {n: place(output) for n, output in enumerate(results) if n not in rows and n not in late}
    conditions = tuple(place(node.input_value(0)) for node in closing)
    apart = sums and Sums(sums, tuple(late), {_name(n): rows[n][1] for n in rows}, conditions)
    return Updates(_model(outputs, model), rows, whole, apart)


def _writes(output: Output, state: str) -> bool:
    """Whether a result is a state with new rows that nothing else reads."""
    node = output.get_node()
    if node.get_type_name() != "ScatterNDUpdate" or len(output.get_target_inputs()) > 1:
        return False
    return bool(node.input_value(0).get_node().get_friendly_name() == state)


def _sums(model: Model, late: Sequence[int], writers: Mapping[int, Node]) -> Model:
    """A model that returns some of the states, given the new rows of others."""
    from openvino import opset13 as ops

    clone = model.clone()
    nodes = {node.get_friendly_name(): node for node in clone.get_ops()}
    for number, writer in writers.items():
        rows = nodes[writer.get_friendly_name()].input_value(2)
        taken = ops.parameter(rows.get_partial_shape(), rows.get_element_type(), _name(number))
        taken.output(0).set_names({_name(number)})
        for reader in rows.get_target_inputs():
            reader.replace_source_output(taken.output(0))
    return _model([clone.get_results()[number + 1].input_value(0) for number in late])


def _model(outputs: Sequence[Output], like: Model | None = None) -> Model:
    """A model with these results, and with all inputs of another one or those that it needs."""
    from openvino import Model
    from openvino import opset13 as ops

    needed = [node for node in _before(outputs) if node.get_type_name() == "Parameter"] if like is None else []
    return Model([ops.result(output) for output in outputs], needed if like is None else like.get_parameters())


def _values_are_read(model: Model, name: str) -> bool:
    """Whether a model reads more of an input than its sizes."""
    readers = [reader for port in model.inputs if name in port.get_names() for reader in port.get_target_inputs()]
    return any(reader.get_node().get_type_name() != "ShapeOf" for reader in readers)


def _reads(output: Output, nodes: Sequence[Node]) -> bool:
    names = {node.get_friendly_name() for node in nodes}
    return any(node.get_friendly_name() in names for node in _before([output]))


def _before(outputs: Sequence[Output]) -> list[Node]:
    """The nodes that compute these values."""
    found: dict[str, Node] = {}
    left = [output.get_node() for output in outputs]
    while left:
        node = left.pop()
        if node.get_friendly_name() not in found:
            found[node.get_friendly_name()] = node
            left += [value.get_node() for value in node.input_values()]
    return list(found.values())


def _name(number: int) -> str:
    return f"new_rows_{number}"
