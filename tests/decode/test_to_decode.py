"""Decoders give the logits of the whole sequence, in float64, whatever the model and however it is cut."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import flashir
from flashir import interpret
from flashir.backends.decoding import Decoding, decoding, extending
from flashir.backends.lowering import Lowering
from flashir.errors import FlashirError, SettingError
from flashir.ir import Builder, Graph, TensorType, dumps, loads
from flashir.ir.parameter_names import parameters
from flashir.ir.verify import verify
from flashir.models.parameters import unit
from flashir.transforms.one_document import OneDocument
from tests.cover import in_turn
from tests.decode.support import (
    CHUNK,
    FLASH,
    LENGTH,
    QUAD,
    ROOM,
    SMALL,
    STARTS,
    ZOO,
    RandomCase,
    decoded,
    extended,
    interpreted,
    model,
    tokens,
    worst,
)
from tests.strategies import models

EXACT = 1e-10


def error(graph: Graph, made: Decoding, lengths: tuple[int, ...], seed: int = 0) -> float:
    """How far prefill and steps are from the whole, at worst."""
    params, ids = unit(graph, seed), tokens(len(lengths), LENGTH, seed)
    calls = (interpreted(each, params) for each in made.graphs)
    return worst(interpret(graph, params, ids)[0], decoded(*calls, ids, lengths))


def error_of_calls(graph: Graph, extend: Graph, most: int, seed: int = 0) -> float:
    """How far calls of up to `most` tokens are from the whole, at worst."""
    params, ids = unit(graph, seed), tokens(3, LENGTH, seed)
    return worst(interpret(graph, params, ids)[0], extended(interpreted(extend, params), ids, seed, most))


split = cache(lambda name: decoding(model(name), max_len=ROOM))
whole = cache(lambda name: extending(model(name), max_len=ROOM))


@pytest.mark.parametrize("name", ZOO)
def test_steps_give_the_logits_of_the_whole(name: str) -> None:
    assert error(model(name), split(name), STARTS) < EXACT


@in_turn(name=ZOO, most=(CHUNK + 2, 2, LENGTH))
def test_calls_of_any_number_of_tokens_give_the_logits_of_the_whole(name: str, most: int) -> None:
    assert error_of_calls(model(name), whole(name).extend, most, most) < EXACT


def test_states_may_have_an_axis_for_heads() -> None:
    graph = model("flash")
    made = extending(graph, layout=lambda types: {name: with_one_head(type_) for name, type_ in types.items()})
    assert {spec.type.rank for spec in made.state} == {4}
    assert error_of_calls(graph, made.extend, 2 * CHUNK) < EXACT


def with_one_head(type_: TensorType) -> TensorType:
    return type_.with_shape((type_.shape[0], 1, *type_.shape[1:]))


@pytest.mark.parametrize("name", ZOO)
def test_the_graphs_are_well_formed_and_have_the_parameters_of_the_model(name: str) -> None:
    graph, made, one = model(name), split(name), whole(name)
    for each in (*made.graphs, one.extend):
        verify(each)
        assert loads(dumps(each)) == each
        assert {n: s.shape for n, s in parameters(each).items()} == {n: s.shape for n, s in parameters(graph).items()}
    types = [spec.type for spec in made.state]
    assert [v.type for v in made.step.inputs[1:]] == types
    assert [v.type for v in made.step.outputs[1:]] == types
    assert [v.type for v in made.prefill.outputs[1:]] == types
    assert [v.name for v in made.step.inputs[1:]] == [spec.name for spec in made.state]
    assert [v.type for v in one.extend.inputs[2:]] == [v.type for v in one.extend.outputs[1:]]
    assert [v.name for v in one.extend.inputs[2:]] == [spec.name for spec in one.state]


@pytest.mark.parametrize("name", ["flash", "flash-quad", "combiner", "performer"])
def test_lowering_keeps_them(name: str) -> None:
    graph = model(name)
    lowering = Lowering("primitives")
    assert error(graph, decoding(graph, max_len=ROOM).lowered(lowering), STARTS) < EXACT
    assert error_of_calls(graph, extending(graph, max_len=ROOM).lowered(lowering).extend, LENGTH) < EXACT


def test_the_state_of_flash_does_not_grow() -> None:
    made = decoding(model("flash"))
    names = {spec.name: str(spec.type) for spec in made.state if not spec.name.startswith("layers.1")}
    assert names == {
        "position": "i32[B]",
        "layers.0.sum": "f32[B, 8, 32]",
        "layers.0.quad_k": f"f32[B, {CHUNK}, 8]",
        "layers.0.lin_k": f"f32[B, {CHUNK}, 8]",
        "layers.0.v": f"f32[B, {CHUNK}, 32]",
    }


def test_narrow_models_sum_up_in_float32() -> None:
    made = decoding(flashir.model("flash", **FLASH, dtype="bfloat16"))
    assert [str(s.type) for s in made.state[1:5]] == [
        "f32[B, 8, 32]",
        f"bf16[B, {CHUNK}, 8]",
        f"bf16[B, {CHUNK}, 8]",
        f"bf16[B, {CHUNK}, 32]",
    ]


def test_a_unit_that_divides_by_the_length_is_told_which() -> None:
    graph = flashir.model("flash-quad", **{**QUAD, "qk_scale": "length"})
    with pytest.raises(SettingError, match=r"gau > size.*\n.*length=512"):
        decoding(graph, max_len=ROOM)
    assert error(graph, decoding(graph, max_len=ROOM, length=LENGTH), STARTS) < EXACT
    assert error(graph, decoding(graph, max_len=ROOM, length=LENGTH + 1), STARTS) > 1e-4


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("flash", {"task": "mlm", "chunk": 4}, "flash is not causal"),
        ("transformer++", {"task": "mlm"}, "mhsa is not causal"),
        ("flash", {}, "the chunk of flash is part of the model, and still auto"),
        ("flash", {"chunk": 4, "summaries": "attend"}, "flash > reshape"),
        ("transformer+", {"attention": "relu2"}, "mhsa > size"),
        ("transformer++", {}, "max_len must say how many"),
        ("combiner", {"chunk": 4}, "max_len must say how many"),
    ],
)
def test_what_cannot_be_continued_is_refused_by_name(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        decoding(flashir.model(name, **SMALL, **settings))


def test_numbers_below_one_are_refused_together() -> None:
    with pytest.raises(SettingError) as told:
        decoding(model("flash"), max_len=0, length=-5)
    wanted = {"max_len": 0, "length": -5}
    assert list(told.value.problems) == [f"{name} must be at least 1, got {n}" for name, n in wanted.items()]


def test_all_that_is_wrong_is_said_at_once() -> None:
    b = Builder("stack")
    x = b.embed(b.input("ids", "i32[B, T]"), vocab=11, dim=8)
    (h,) = b.insert("flash", (b.add(x, b.input("y", "f32[B, T, 8]")),), {"key_dim": 4, "causal": False})
    with pytest.raises(SettingError) as told:
        decoding(b.finish(b.unembed(h)))
    assert len(told.value.problems) == 3


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("flash", {"segments": True}),
        ("flash-quad", {"segments": "token", "mask": True}),
        ("transformer++", {"mask": True}),
    ],
)
def test_a_prompt_is_one_document_without_padding(name: str, told: dict[str, Any]) -> None:
    system, settings = ZOO[name]
    wanted = decoding(flashir.model(system, **settings), max_len=ROOM)
    made = decoding(flashir.model(system, **settings, **told), max_len=ROOM)
    assert [dumps(graph) for graph in (made.prefill, made.step)] == [
        dumps(graph) for graph in (wanted.prefill, wanted.step)
    ]
    assert made.state == wanted.state


def test_an_input_that_says_more_than_which_tokens_belong_together_stays() -> None:
    b = Builder("stack")
    ids, mask = b.input("ids", "i32[B, T]"), b.input("mask", "bool[B, T]")
    x = b.embed(ids, vocab=11, dim=8)
    (h,) = b.insert("gau", (x, mask), {"key_dim": 4, "qk_scale": "none"})
    graph = b.finish(b.unembed(b.select(b.reshape(mask, shape=(*mask.type.shape, 1)), h, 0.0)))
    assert OneDocument().apply(graph) == graph


def stack(mix: Any) -> Graph:
    b = Builder("stack")
    x = b.embed(b.input("ids", "i32[B, T]"), vocab=11, dim=8)
    return b.finish(b.unembed(mix(b, x)))


def turned(b: Builder, x: Any) -> Any:
    """What acts on each token alone, the axis of tokens moved about."""
    heads = b.transpose(b.reshape(x, shape=(*x.type.shape[:2], 2, 4)), perm=(0, 2, 1, 3))
    scores = b.softmax(b.matmul(heads, b.broadcast(b.constant(0.5), shape=(4, 4))))
    left, right = b.results("split", scores, axis=-1, sizes=(1, 3))
    joined = b.concat(right, b.relu2(left), axis=-1)
    return b.layer_norm(b.reshape(b.transpose(joined, perm=(0, 2, 1, 3)), shape=x.type.shape))


def attended(b: Builder, x: Any) -> Any:
    """Attention that stands in no block, twice."""
    h = b.rope(b.reshape(x, shape=(x.type.shape[0], 1, *x.type.shape[1:])), axis=2)
    for _ in range(2):
        h = b.softmax_attention(h, h, h, causal=True)
    return b.reshape(h, shape=x.type.shape)


@pytest.mark.parametrize("mix", [turned, attended])
def test_stacks_of_ones_own_are_continued(mix: Any) -> None:
    graph = stack(mix)
    assert error(graph, decoding(graph, max_len=ROOM), STARTS) < EXACT
    assert error_of_calls(graph, extending(graph, max_len=ROOM).extend, LENGTH) < EXACT


MIXES = {
    "cumsum": lambda b, x: b.cumsum(x, axis=1),
    "reverse": lambda b, x: b.reverse(x, axis=-2),
    "reduce_mean": lambda b, x: b.add(x, b.reduce_mean(x, axes=(1,), keepdims=True)),
    "matmul": lambda b, x: b.matmul(b.matmul(x, x, transpose_y=True), x),
    "reshape": lambda b, x: b.reshape(b.transpose(x, perm=(0, 2, 1)), shape=x.type.shape),
    "iota": lambda b, x: b.add(
        x, b.reshape(b.iota(length=x.type.shape[1], dtype=x.type.dtype), shape=(x.type.shape[1], 1))
    ),
    "pad": lambda b, x: b.slice(b.pad(x, axis=1, before=1), axis=1, stop=x.type.shape[1]),
}


@pytest.mark.parametrize("op", MIXES)
def test_ops_that_mix_tokens_are_never_taken_for_others(op: str) -> None:
    with pytest.raises(SettingError, match=f"{op} mixes tokens and has no streaming rule"):
        decoding(stack(MIXES[op]), max_len=ROOM)


def check_random(drawn: tuple[Graph, int, int, int]) -> None:
    """A random model is continued exactly, or refused by name."""
    case = RandomCase.of(drawn)
    calls = (interpreted(graph, case.params) for graph in (*case.split.graphs, *case.made.graphs))
    assert case.error(*calls) < 1e-8, dumps(case.graph)


FAST = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
@settings(FAST, max_examples=15)
@given(drawn=models(causal=True))
def test_random_models_are_continued(drawn: tuple[Graph, int, int, int]) -> None:
    check_random(drawn)


@pytest.mark.slow
@settings(FAST, max_examples=200)
@given(drawn=models(causal=True))
def test_many_random_models_are_continued(drawn: tuple[Graph, int, int, int]) -> None:
    check_random(drawn)


def test_a_wrong_state_is_found() -> None:
    graph = model("flash")
    made, params = decoding(graph), unit(graph)
    prefill, step = (interpreted(each, params) for each in made.graphs)

    def forgetful(arrays: Any, states: Any) -> Any:
        logits, after = step(arrays, states)
        return logits, [
            x * (0.999 if spec.name == "layers.1.sum" else 1) for spec, x in zip(made.state, after, strict=True)
        ]

    ids = tokens(3, LENGTH)
    wanted = interpret(graph, params, ids)[0]
    assert worst(wanted, decoded(prefill, forgetful, ids, STARTS)) > 1e-5


def test_a_step_needs_the_states_of_its_model() -> None:
    made = decoding(model("flash"))
    with pytest.raises(FlashirError, match="the model takes"):
        interpret(made.step, unit(model("flash")), tokens(1, 1))
