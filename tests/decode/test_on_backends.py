"""Decoders on every backend, their states kept there, against the interpreter on the whole sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import flashir
from flashir import interpret, plan
from flashir.backends.decoding import decoding, extending
from flashir.backends.lowering import Lowering
from flashir.backends.protocols import StatefulBackend
from flashir.backends.registry import backend_of
from flashir.ir import Graph, dumps
from flashir.models.parameters import unit
from flashir.reference.inputs import one_document
from tests.backends.support import at_hand
from tests.cover import GRID
from tests.decode.support import (
    CHUNK,
    LENGTH,
    ROOM,
    SMALL,
    STARTS,
    ZOO,
    Call,
    RandomCase,
    decoded,
    extended,
    model,
    tokens,
    worst,
)
from tests.strategies import models

TARGETS = ("onnx:cpu", "torch:cpu", "jax:cpu")
TOLERANCE = 1e-4


def running(graphs: Sequence[Graph], target: str, params: Any) -> Sequence[Call]:
    """The graphs on a target."""
    found = backend_of(target)
    assert isinstance(found, StatefulBackend)
    return found.continuing([Lowering.of(target).run(graph) for graph in graphs], params, "cpu")


def cases(turn: int) -> list[Any]:
    """Every system on every target. By default one is on all, and every second one on ONNX Runtime or PyTorch in turn.

    The graphs themselves are tested in float64, all of them; here a backend runs them.
    """

    def marks(place: int, name: str, target: str) -> Any:
        if name == "flash" or (place % 2 == turn and target == TARGETS[place // 2 % 2]):
            return ()
        return GRID if target == "jax:cpu" else pytest.mark.slow

    names = enumerate(ZOO)
    return [pytest.param(name, target, marks=marks(place, name, target)) for place, name in names for target in TARGETS]


@pytest.mark.slow_where(name="flash", target="jax:cpu")
@pytest.mark.parametrize(("name", "target"), cases(0))
def test_any_number_of_tokens_gives_the_logits_of_the_whole(name: str, target: str) -> None:
    if not at_hand(target.partition(":")[0]):
        pytest.skip("not installed")
    graph = model(name)
    params, ids = unit(graph), tokens(3, LENGTH)
    (extend,) = running(extending(graph, max_len=ROOM).graphs, target, params)
    wanted = interpret(graph, params, ids)[0]
    for seed, most in ((0, 1), (1, CHUNK + 2), (2, LENGTH)):
        assert worst(wanted, extended(extend, ids, seed, most)) < TOLERANCE


@pytest.mark.slow_where(target="jax:cpu")
@pytest.mark.parametrize(("name", "target"), cases(1))
def test_steps_give_the_logits_of_the_whole(name: str, target: str) -> None:
    if not at_hand(target.partition(":")[0]):
        pytest.skip("not installed")
    graph = model(name)
    params, ids = unit(graph), tokens(3, LENGTH)
    calls = running(decoding(graph, max_len=ROOM).graphs, target, params)
    assert worst(interpret(graph, params, ids)[0], decoded(*calls, ids, STARTS)) < TOLERANCE


LONG: dict[str, dict[str, Any]] = {
    "flash": {"chunk": 64},
    "flash-quad": {"max_len": 640, "qk_scale": "max_len"},
    "transformer": {"heads": 2, "max_len": 640},
    "transformer+": {"heads": 2},
    "transformer++": {"heads": 2},
    "performer": {"heads": 2},
    "combiner": {"heads": 2, "chunk": 64},
    "mc-transformer++": {"heads": 2, "chunk": 128},
}
"""Every causal system of the zoo, with borders of chunks inside calls of up to 300 tokens."""


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS[:2])
@pytest.mark.parametrize("name", LONG)
def test_long_texts_are_cut_anywhere(name: str, target: str) -> None:
    graph = plan(flashir.model(name, **SMALL, **LONG[name]), target, seq_len=600).graph
    params, ids = unit(graph), tokens(3, 600)
    (extend,) = running(extending(graph, max_len=640).graphs, target, params)
    wanted = interpret(graph, params, ids)[0]
    for seed, most in ((0, 7), (1, 300)):
        assert worst(wanted, extended(extend, ids, seed, most)) < TOLERANCE


@pytest.mark.slow_where(target="jax:cpu")
@pytest.mark.parametrize("target", TARGETS)
def test_a_prompt_of_a_model_with_documents_is_one_document(target: str) -> None:
    if not at_hand(target.partition(":")[0]):
        pytest.skip("not installed")
    graph = flashir.model("flash", **{**ZOO["flash"][1], "cumsum": "scan"}, segments="token", mask=True)
    params, ids = unit(graph), tokens(3, LENGTH)
    wanted = interpret(graph, params, *one_document(graph, ids))[0]
    (extend,) = running(extending(graph, max_len=ROOM).graphs, target, params)
    assert worst(wanted, extended(extend, ids, 0, CHUNK)) < TOLERANCE


ALL = list(HealthCheck)


@pytest.mark.slow
@settings(deadline=None, max_examples=4, suppress_health_check=ALL)
@given(drawn=models(causal=True))
def test_random_models_are_continued(drawn: tuple[Graph, int, int, int]) -> None:
    check_random(drawn, "onnx:cpu")


@pytest.mark.grid
@pytest.mark.slow
@pytest.mark.parametrize(("target", "count"), [("onnx:cpu", 200), ("torch:cpu", 200), ("jax:cpu", 20)])
def test_many_random_models_are_continued(target: str, count: int) -> None:
    @settings(deadline=None, max_examples=count, suppress_health_check=ALL)
    @given(drawn=models(causal=True))
    def each(drawn: tuple[Graph, int, int, int]) -> None:
        check_random(drawn, target)

    each()


def check_random(drawn: tuple[Graph, int, int, int], target: str) -> None:
    """A random model is continued within the tolerance, or refused by name."""
    case = RandomCase.of(drawn)
    graphs = (*case.split.graphs, *case.made.graphs)
    assert case.error(*running(graphs, target, case.params)) < TOLERANCE, dumps(case.graph)


@pytest.mark.parametrize("target", TARGETS)
def test_a_model_without_layers_has_no_state(target: str) -> None:
    if not at_hand(target.partition(":")[0]):
        pytest.skip("not installed")
    graph = flashir.loads(
        "model @none(%ids: i32[B, T]) -> f32[B, T, 5] {\n  %x = embed(%ids) {vocab = 5, dim = 4}\n"
        "  %l = unembed(%x) {vocab = 5, tied = true}\n  return %l\n}"
    )
    params, ids = unit(graph), np.array([[1, 2, 3]])
    wanted = interpret(graph, params, ids)[0]
    decoder = flashir.decoder(graph, target, params)
    state, logits = decoder.start(ids[:, :2])
    assert np.allclose(logits, wanted[:, 1], atol=TOLERANCE)
    assert np.allclose(decoder.extend(state, ids[:, 2])[1], wanted[:, 2], atol=TOLERANCE)
