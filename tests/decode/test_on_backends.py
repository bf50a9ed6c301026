"""Prefill and steps on every backend, their states kept there, against the interpreter on the whole sequence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import flashir
from flashir import interpret
from flashir.backends.decoding import Decoding, decoding
from flashir.backends.lowering import Lowering
from flashir.backends.protocols import StatefulBackend
from flashir.backends.registry import backend_of
from flashir.ir import Graph, dumps
from flashir.models.parameters import unit
from flashir.reference.inputs import one_document
from tests.backends.support import at_hand
from tests.decode.support import CHUNK, LENGTH, ROOM, STARTS, ZOO, Call, RandomCase, decoded, model, tokens, worst
from tests.strategies import models

TARGETS = ("onnx:cpu", "torch:cpu", "jax:cpu")
TOLERANCE = 1e-4


def running(made: Decoding, target: str, params: Any) -> tuple[Call, Call]:
    """Both graphs on a target."""
    found = backend_of(target)
    assert isinstance(found, StatefulBackend)
    graphs = [Lowering.of(target).run(graph) for graph in (made.prefill, made.step)]
    prefill, step = found.continuing(graphs, params, "cpu")
    return prefill, step


CASES = [
    pytest.param(name, target, marks=() if name == "flash" or target == TARGETS[place % 2] else pytest.mark.slow)
    for place, name in enumerate(ZOO)
    for target in TARGETS
]
"""By default every system on ONNX Runtime or PyTorch in turn, and one on all."""


@pytest.mark.slow_where(name="flash", target="jax:cpu")
@pytest.mark.parametrize(("name", "target"), CASES)
def test_steps_give_the_logits_of_the_whole(name: str, target: str) -> None:
    if not at_hand(target.partition(":")[0]):
        pytest.skip("not installed")
    graph = model(name)
    params, ids = unit(graph), tokens(3, LENGTH)
    wanted = interpret(graph, params, ids)[0]
    for starts, widths in ((STARTS[0], (1,)), (STARTS[1], (CHUNK + 2, 1))):
        calls = running(decoding(graph, tokens=max(widths), max_len=ROOM), target, params)
        assert worst(wanted, decoded(*calls, ids, starts, widths)) < TOLERANCE


@pytest.mark.parametrize("target", TARGETS)
def test_a_prompt_of_a_model_with_documents_is_one_document(target: str) -> None:
    if not at_hand(target.partition(":")[0]):
        pytest.skip("not installed")
    graph = flashir.model("flash", **{**ZOO["flash"][1], "cumsum": "scan"}, segments="token", mask=True)
    params, ids = unit(graph), tokens(3, LENGTH)
    wanted = interpret(graph, params, *one_document(graph, ids))[0]
    calls = running(decoding(graph, max_len=ROOM), target, params)
    assert worst(wanted, decoded(*calls, ids, STARTS[0], (1,))) < TOLERANCE


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
    assert case.error(*running(case.made, target, case.params)) < TOLERANCE, dumps(case.graph)
