"""States in place: what a decoder still computes in every call, and what is written after it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flashir
from flashir.backends.decoding import decoding, extending
from flashir.backends.lowering import Lowering
from flashir.backends.registry import backend_of
from flashir.models.parameters import unit
from flashir_openvino.continuing import Continued, InPlace
from flashir_openvino.precision import compute_type
from flashir_openvino.reading import distinct, read
from flashir_openvino.session import compiled, input_names
from flashir_openvino.updates import Updates, updates_of
from tests.decode.support import ROOM, model

TARGET = "openvino:cpu"


def updates(graph: Any, count: int) -> Updates:
    return updates_of(read(graph, unit(model("flash")), distinct(graph)), input_names(graph), count)


def test_rings_get_rows_and_sums_run_apart_without_weights() -> None:
    made = extending(model("flash")).lowered(Lowering.of(TARGET))
    got = updates(made.extend, len(made.state))
    names = [state.name for state in made.state]
    assert {names[number].split(".")[-1] for number in got.rows} == {"quad_k", "lin_k", "v"}
    assert got.whole == {} and got.sums is not None
    assert [names[number] for number in got.sums.numbers] == ["layers.0.sum", "layers.1.sum"]
    assert len({places for places, _ in got.rows.values()}) == 1, "all rings have their rows at the same places"
    assert not [node for node in got.sums.model.get_ops() if "weight" in node.get_friendly_name()]


def test_a_step_that_reads_what_it_writes_returns_whole_states() -> None:
    made = decoding(model("flash")).lowered(Lowering.of(TARGET))
    got = updates(made.step, len(made.state))
    assert (got.rows, got.sums, len(got.whole)) == ({}, None, len(made.state))


@pytest.mark.parametrize("name", ["flash", pytest.param("performer", marks=pytest.mark.slow)])
def test_states_are_those_of_the_model_alone(name: str) -> None:
    """Bit for bit, through closed chunks, for rows of unequal lengths."""
    graph = model(name)
    made = extending(graph, max_len=ROOM).lowered(Lowering.of(TARGET))
    whole = read(made.extend, unit(graph), distinct(made.extend))
    alone = Continued(compiled(whole, "cpu", compute_type(made.extend)), input_names(made.extend))
    (changed,) = backend_of(TARGET).continuing([made.extend], unit(graph), "cpu")  # type: ignore[attr-defined]
    assert isinstance(changed, InPlace) == (name == "flash")
    states: list[Any] = [(), ()]
    position = np.zeros(2, np.int64)
    for lengths in ((7, 3), (1, 1), (1, 2), (9, 1), (1, 0), (4, 4)):
        own = np.arange(max(lengths)) < np.array(lengths)[:, None]
        ids = np.where(own, np.random.default_rng(0).integers(0, 11, own.shape), 0)
        places = np.where(own, position[:, None] + np.arange(max(lengths)), -1)
        position += lengths
        logits = []
        for number, function in enumerate((alone, changed)):
            first, states[number] = function([ids, places], states[number])
            logits.append(first)
        assert np.array_equal(*logits)
        for spec, one, other in zip(made.state, *states, strict=True):
            one, other = (np.array(getattr(state, "data", state)) for state in (one, other))
            kept = slice(None) if spec.name.endswith("sum") else slice(-1)  # the spare slot holds anything
            assert np.array_equal(one[..., kept, :], other[..., kept, :]), spec.name


@pytest.mark.slow
def test_a_decoder_in_bfloat16_has_its_sums_apart_too() -> None:
    graph = flashir.plan(model("flash"), TARGET, dtype="bfloat16").graph
    made = extending(graph).lowered(Lowering.of(TARGET))
    got = updates(made.extend, len(made.state))
    assert got.sums is not None and len(got.sums.numbers) == 2
