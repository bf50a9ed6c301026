"""A deep model as parts that add up: the model without its layers, and a few of the layers by themselves.

The layers of a `repeat` are alike, so N of them take N / 2 times what two take. Measured on two cores of a CPU by ONNX
Runtime, for flash of width 512 with 12 layers at 1024 and 2048 tokens, the sum of the parts is within 4% of the whole
where little else runs (a busy machine drowns the difference), at a sixth of the time and with a sixth of the weights
in memory. All candidates share the part without the layers, and the layers of all are alike, so what is off is off for
all. A model of width 64 is not measured that way: there the sum was up to twice the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flashir.ir import Builder, Graph, Node, Value

LAYERS = 2
"""Rounds of a `repeat` that are measured in place of all."""
FEWEST = 4
"""Rounds from which on it pays to measure a `repeat` by itself."""


@dataclass(frozen=True)
class Part:
    """A graph, and how many times its time counts."""

    graph: Graph
    weight: float


def parts(model: Graph) -> tuple[Part, ...]:
    """A settled model as parts: the weighted times of all add up to its own. The first has the model's own inputs."""
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
    """A few rounds of a `repeat`, what goes into it as inputs."""
    b = Builder(f"layers_{index}")
    operands = [b.input(value.name, value.type) for value in node.operands]
    return b.finish(*b.insert("repeat", operands, {**node.attrs, "times": LAYERS}, node.region))


def _without(model: Graph, deep: Sequence[Node]) -> Graph:
    """`%y = repeat(%x) {times = 24}` -> nothing, and `%x` for `%y`"""
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
