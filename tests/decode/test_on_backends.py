"""Prefill and steps on every backend, their states kept there, against the interpreter on the whole sequence."""

from __future__ import annotations

from typing import Any

import pytest

from flashir import interpret
from flashir.backend import Continuing
from flashir.decode import Decoding, decoding
from flashir.lowering import Lowering
from flashir.parameters import unit
from flashir.registry import backend_of
from tests.backends.support import at_hand
from tests.decode.support import CHUNK, LENGTH, ROOM, STARTS, ZOO, Call, decoded, model, tokens, worst

TARGETS = ("onnx:cpu", "torch:cpu", "jax:cpu")
TOLERANCE = 1e-4


def running(made: Decoding, target: str, params: Any) -> tuple[Call, Call]:
    """Both graphs on a target."""
    found = backend_of(target)
    assert isinstance(found, Continuing)
    graphs = [Lowering.of(target).run(graph) for graph in (made.prefill, made.step)]
    prefill, step = found.continuing(graphs, params, "cpu")
    return prefill, step


CASES = [
    pytest.param(name, target, marks=[pytest.mark.slow] if target.startswith("jax") and name != "flash" else [])
    for name in ZOO
    for target in TARGETS
]


@pytest.mark.parametrize(("name", "target"), CASES)
def test_steps_give_the_logits_of_the_whole(name: str, target: str) -> None:
    if not at_hand(target.partition(":")[0]):
        pytest.skip("not installed")
    graph = model(name)
    params, ids = unit(graph), tokens(3, LENGTH)
    wanted = interpret(graph, params, ids)[0]
    calls = running(decoding(graph, max_len=ROOM), target, params)
    assert worst(wanted, decoded(*calls, ids, STARTS[0], (1,))) < TOLERANCE
    assert worst(wanted, decoded(*calls, ids, STARTS[1], (CHUNK + 2, 1))) < TOLERANCE
