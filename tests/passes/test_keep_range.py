"""What grows with the length is float32 in a model that computes in float16, and nothing else is."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

import flashir
from flashir.backends.decoding import decoding
from flashir.backends.lowering import Lowering
from flashir.ir import DType, Graph
from flashir.transforms.growth import Growth
from flashir.transforms.keep_range import KeepRange
from flashir.transforms.set_dtype import SetDType
from tests.support import assert_same_function

GROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("flash", {"lin_norm": "none", "cumsum": cumsum}) for cumsum in ("scan", "matmul", "native")),
    ("flash", {"lin_norm": "chunk"}),
    ("flash", {"lin_norm": "none", "task": "mlm"}),
    ("flash", {"lin_norm": "none", "segments": True}),
    ("flash-quad", {"qk_scale": "sqrt_key"}),
    ("flash-quad", {"qk_scale": "none", "task": "mlm"}),
    ("flash-quad", {}),
    ("mc-transformer++", {"lin_norm": "none"}),
    ("transformer+", {"attention": "relu2"}),
)
STAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("flash", {"cumsum": cumsum}) for cumsum in ("scan", "matmul", "native")),
    ("flash", {"task": "mlm"}),
    ("flash", {"use_global": False}),
    ("flash-quad", {"attention": "softmax", "qk_scale": "sqrt_key"}),
    ("transformer", {}),
    ("transformer++", {}),
    ("performer", {}),
    ("combiner", {}),
    ("mc-transformer++", {}),
)


def narrow(name: str, settings: dict[str, Any], dtype: str = "float16") -> Graph:
    return SetDType(dtype).apply(settled(name, **settings))


@cache
def settled(name: str, **settings: Any) -> Graph:
    model = flashir.model(name, size="tiny", **settings)
    return flashir.plan(model, "onnx:cpu", seq_len=64, measured=False).graph


def between_layers(lowering: Lowering, model: Graph) -> set[DType]:
    (repeat,) = (node for node in lowering.run(model).nodes if node.op == "repeat")
    return {repeat.output.type.dtype}


def shown(case: object) -> str:
    return "-".join(f"{key}={value}" for key, value in case.items()) if isinstance(case, dict) else str(case)


TARGETS = ("onnx:cpu", "torch:cpu", "torch:h100", "jax:cpu", "primitives")


@pytest.mark.parametrize(
    ("target", "every"),
    [*((target, 4) for target in TARGETS), *(pytest.param(target, 1, marks=pytest.mark.slow) for target in TARGETS)],
)
def test_layers_hand_on_float32_where_they_sum_over_tokens(target: str, every: int) -> None:
    lowering = Lowering("primitives") if target == "primitives" else Lowering.of(target)
    for cases, wanted in ((GROWS, DType.F32), (STAYS, DType.F16)):
        for name, settings in cases[::every]:
            assert between_layers(lowering, narrow(name, settings)) == {wanted}, (name, settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param(*case, marks=pytest.mark.slow if place % 4 else (), id="-".join(map(shown, case)))
        for place, case in enumerate((*GROWS, *STAYS))
    ],
)
def test_the_function_stays_the_same(name: str, settings: dict[str, Any]) -> None:
    model = narrow(name, settings)
    kept = Lowering("primitives")
    plain = [each for each in kept.passes() if not isinstance(each, KeepRange)]
    graph = model
    for each in plain:
        graph = each.apply(graph)
    assert_same_function(graph, kept.run(model), {"B": 2, "T": 70}, high=256)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_other_types_are_left_alone(dtype: str) -> None:
    for name, settings in GROWS[:1]:
        graph = Lowering("primitives").run(narrow(name, settings, dtype))
        assert KeepRange().apply(graph) is graph


@pytest.mark.parametrize(("name", "settings"), [GROWS[0], GROWS[6], STAYS[0]], ids=shown)
def test_a_graph_whose_range_is_kept_stays_as_it_is(name: str, settings: dict[str, Any]) -> None:
    graph = Lowering("primitives").run(narrow(name, settings))
    assert KeepRange().apply(graph) is graph


def test_a_model_for_one_length_is_no_exception() -> None:
    text = """model @fixed(%ids: i32[1, 4096]) -> f32[1, 4096, 61] {
      %x = embed(%ids) {vocab = 61, dim = 24, dtype = f16}
      %z = repeat(%x) {times = 2} (%h) {
        %o = LAYER
        yield %o
      }
      %n = layer_norm(%z)
      %l = unembed(%n) {tied = true}
      return %l
    }"""
    for layer, wanted in (
        ('flash(%h) {key_dim = 8, chunk = 128, cumsum = "matmul", lin_norm = "none"}', DType.F32),
        ('flash(%h) {key_dim = 8, chunk = 128, cumsum = "scan", lin_norm = "none"}', DType.F32),
        ('gau(%h) {key_dim = 8, qk_scale = "sqrt_key"}', DType.F32),
        ('flash(%h) {key_dim = 8, chunk = 128, cumsum = "native"}', DType.F16),
    ):
        assert between_layers(Lowering("primitives"), flashir.loads(text.replace("LAYER", layer))) == {wanted}


@pytest.mark.parametrize(
    ("name", "settings", "widened"),
    [("flash", {"lin_norm": "none"}, True), ("flash", {}, False), ("flash-quad", {"qk_scale": "sqrt_key"}, True)],
)
def test_a_decoder_keeps_the_range_of_its_states(name: str, settings: dict[str, Any], widened: bool) -> None:
    graphs = decoding(narrow(name, settings), max_len=4096)
    made = graphs.lowered(Lowering.of("onnx:cpu"))
    handed_on = [node.output.type for node in made.step.walk() if node.op == "add" and node.output.type.shape[-1] == 64]
    assert handed_on[-1].dtype is (DType.F32 if widened else DType.F16)
    for before, after in ((graphs.prefill, made.prefill), (graphs.step, made.step)):
        assert [v.type for v in before.outputs] == [v.type for v in after.outputs]


def test_growth_is_told_from_sums_products_and_means() -> None:
    graph = flashir.loads(
        """model @m(%x: f32[B, T, 4], %s: f32[B, 4]) -> f32[B, 4, 4], f32[B, T, 4], f32[B, 4], f32[B, T, 4], f32[B, 4] {
          %a = matmul(%x, %x) {transpose_x = true}
          %b = matmul(%x, %a)
          %n = size() {value = T, dtype = f32}
          %c = reduce_sum(%x) {axes = [1]}
          %d = div(%c, %n)
          %e = cumsum(%x) {axis = 1}
          %f = tanh(%e)
          %o = add(%s, %d)
          return %a, %b, %d, %f, %o
        }"""
    )
    found = Growth.within(graph, carried=1)
    assert [found.of[value] for value in graph.outputs] == [1, 1, 0, 0, 1]
    assert Growth.within(graph).of[graph.outputs[-1]] == 0
