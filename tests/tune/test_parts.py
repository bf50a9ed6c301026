"""A deep model is the model without layers and a few of its layers, so many times."""

from __future__ import annotations

import flashir
from flashir.autotune.split_layers import FEWEST, LAYERS, parts
from flashir.ir import Builder, Value
from flashir.ir.parameter_names import parameters
from flashir.ir.verify import verify


def test_a_shallow_model_is_measured_whole() -> None:
    model = flashir.model("flash", size="tiny", depth=FEWEST - 1)
    (whole,) = parts(model)
    assert whole.graph is model
    assert whole.weight == 1


def test_a_deep_model_is_its_layers_and_the_rest() -> None:
    model = flashir.model("flash", size="tiny", depth=12, segments=True, chunk=64, cumsum="matmul")
    rest, layers = parts(model)
    for part in (rest, layers):
        verify(part.graph)
        assert parameters(part.graph).keys() < parameters(model).keys()
    assert (rest.weight, layers.weight) == (1, 12 / LAYERS)
    assert not any(node.op == "repeat" for node in rest.graph.nodes)
    assert [node.attrs["times"] for node in layers.graph.nodes] == [LAYERS]
    assert [str(each.type) for each in layers.graph.inputs] == ["f32[B, T, 64]", "i32[B, T]"]


def test_every_stack_of_layers_is_a_part() -> None:
    b = Builder("two")
    x = b.input("x", "f32[B, T, 8]")

    def layer(b: Builder, h: Value) -> Value:
        return b.add(h, b.relu(h))

    y = b.repeat(b.repeat(x, times=6, body=layer), times=2, body=layer)
    made = parts(b.finish(b.repeat(y, times=10, body=layer)))
    assert [part.weight for part in made] == [1, 6 / LAYERS, 10 / LAYERS]
    assert [node.op for node in made[0].graph.nodes] == ["repeat"]
    assert made[0].graph.outputs == made[0].graph.nodes[0].outputs
