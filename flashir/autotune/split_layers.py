"""Split a deep model into parts: the model without its layers, and a few of its layers.

The layers of a `repeat` are alike, so N layers take N / 2 times as long as two. For flash of width 512 with 12 layers
at 1024 and 2048 tokens, in ONNX Runtime on two CPU cores of a quiet machine, the sum of the parts is within 4% of the
whole model, at a sixth of the time and of the weights. Errors affect all candidates alike, since they share the part
without the layers. For a model of width 64 the sum was up to twice the whole, so small models are not split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flashir.ir import Builder, Graph, Node, Value

LAYERS = 2
"""How many layers of a `repeat` are measured."""
FEWEST = 4
"""A `repeat` with at least this many layers is measured separately."""


@dataclass(frozen=True)
class Part:
    """A part of a model, and the factor on its time."""

    graph: Graph
    weight: float


def parts(model: Graph) -> tuple[Part, ...]:
    """The parts of a settled model. Their weighted times add up to its time. The first has the inputs of the model."""
    deep = [node for node in model.nodes if node.op == "repeat" and _times(node) >= FEWEST]
    if not deep:
        return (Part(model, 1.0),)
    layers = [Part(_layers(node, index), _times(node) / LAYERS) for index, node in enumerate(deep)]
    return (Part(_without(model, deep), 1.0), *layers)


def _times(node: Node) -> int:
    times = node.attrs["times"]
    assert isinstance(times, int)
    return times


def _layers(node: Node, index: int) -> Graph:
    """A graph of a few layers of a `repeat`, with its operands as inputs."""
    b = Builder(f"layers_{index}")
    operands = [b.input(value.name, value.type) for value in node.operands]
    return b.finish(*b.insert("repeat", operands, {**node.attrs, "times": LAYERS}, node.region))


def _without(model: Graph, deep: Sequence[Node]) -> Graph:
    """Remove `%y = repeat(%x) {times = 24}`, and use `%x` for `%y`."""
    values: dict[Value, Value] = {}
    nodes = []
    for node in model.nodes:
        inputs = tuple(None if value is None else values.get(value, value) for value in node.inputs)
        if node in deep:
            first = inputs[0]
            assert first is not None
            values[node.output] = first
        else:
            nodes.append(replace(node, inputs=inputs))
    return replace(model, nodes=tuple(nodes), outputs=tuple(values.get(value, value) for value in model.outputs))
