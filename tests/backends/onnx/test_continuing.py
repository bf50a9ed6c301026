"""States of a step are renewed where they stand, where that is safe, and are told not to be where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flashir.backends.decoding import Decoding, Extending, decoding, extending
from flashir.backends.lowering import Lowering
from flashir.ir import Builder, Value
from flashir.models.parameters import unit
from flashir_onnx.continuing import continued
from flashir_onnx.in_place import Update, updates
from tests.decode.support import CHUNK, ROOM, model

LOWERING = Lowering.of("onnx:cpu")
SUMS = (("flash", ""), ("mc-transformer++", "attn."))
"""The systems with sums of closed chunks, and the names of those in a layer."""


def others(name: str, made: Decoding | Extending, wanted: Update) -> list[str]:
    """The states that are updated in another way."""
    graph = LOWERING.run(made.graphs[-1])
    found = dict(zip((state.name for state in made.state), updates(graph, len(made.state)), strict=True))
    return [state for state, update in found.items() if update is not wanted]


@pytest.mark.parametrize("name", ["flash", "transformer++", "flash-quad", "performer", "mc-transformer++", "combiner"])
def test_what_is_large_is_updated_by_the_op_alone_that_reads_it(name: str) -> None:
    small = [f"layers.{i}.attn.open" for i in range(2)] if name == "combiner" else []
    sums = [f"layers.{i}.{of}sum" for i in range(2) for kind, of in SUMS if kind == name]
    found = others(name, decoding(model(name), max_len=ROOM), Update.ALONE)
    assert {state.replace("2.open", "open") for state in found} == {"position", *small, *sums}


@pytest.mark.parametrize(("name", "of"), SUMS)
@pytest.mark.parametrize("derive", [decoding, extending])
def test_sums_of_closed_chunks_are_written_last(name: str, of: str, derive: Any) -> None:
    assert not {f"layers.{i}.{of}sum" for i in range(2)} & set(others(name, derive(model(name)), Update.LAST))


def test_many_tokens_are_put_into_rings_last() -> None:
    made = extending(model("flash"))
    assert not others("flash", made, Update.LAST)
    assert not others("performer", extending(model("performer")), Update.ALONE)
    assert not others("transformer++", extending(model("transformer++"), max_len=ROOM), Update.ALONE)


def test_what_something_else_reads_is_copied() -> None:
    def update(build: Callable[[Builder, Value, Value], tuple[Value, Value]], shape: str = "f32[B, 2]") -> Update:
        b = Builder("m")
        return updates(b.finish(*build(b, b.input("x", "f32[B, 2]"), b.input("state", shape))), 1)[0]

    assert update(lambda b, x, state: (x, b.add(state, x))) is Update.ALONE
    assert update(lambda b, x, state: (b.mul(state, x), b.add(state, x))) is Update.COPIED
    assert update(lambda b, x, state: (x, b.mul(state, x))) is Update.COPIED
    assert update(lambda b, x, state: (x, b.add(state, x)), "f32[2]") is Update.COPIED
    assert update(lambda b, x, state: (x, state)) is Update.COPIED


def test_a_step_writes_over_the_states_that_it_was_given() -> None:
    graph = model("flash")
    made = decoding(graph)
    prefill, step = (continued(LOWERING.run(each), unit(graph), "cpu") for each in (made.prefill, made.step))
    _, states = prefill([np.array([[1, 2, 3]]), np.array([3])], ())
    old = [state.numpy().copy() for state in states]
    for token in (4, 5):  # the second closes a chunk
        _, after = step([np.array([[token]])], states)
    for spec, before, state, new in zip(made.state, old, states, after, strict=True):
        assert new is state, spec.name
        assert (new.numpy() != before).any()


def test_sums_change_only_when_a_chunk_closes() -> None:
    """In place too: all branches together are one node, which rows of unequal lengths share."""
    graph = model("flash")
    made = extending(graph)
    (extend,) = (continued(LOWERING.run(each), unit(graph), "cpu") for each in made.graphs)
    place = next(i for i, spec in enumerate(made.state) if spec.name.endswith("sum"))
    states, before = (), np.zeros(())
    for position in range(2 * CHUNK + 1):
        places = np.array([[position], [position + 2]]) if position else np.array([[0, -1, -1], [0, 1, 2]])
        _, states = extend([np.ones_like(places), places], states)
        now = states[place].numpy().copy()
        changed = (now != before).any(axis=(1, 2)) if position else now.any(axis=(1, 2))
        assert [*changed] == [(row.max() + 1) % CHUNK == 0 for row in places]
        before = now


def test_two_sequences_in_turn_do_not_disturb_each_other() -> None:
    graph = model("flash")
    made = decoding(graph)
    prefill, step = (continued(LOWERING.run(each), unit(graph), "cpu") for each in (made.prefill, made.step))

    def begun(first: int) -> list[object]:
        return prefill([np.array([[first, 2, 3]]), np.array([3])], ())[1]

    def rest(states: list[object]) -> list[np.ndarray]:
        found = []
        for token in (4, 5, 6):
            logits, states = step([np.array([[token]])], states)
            found.append(logits)
        return found

    alone = [rest(begun(first)) for first in (1, 7)]
    states, found = [begun(1), begun(7)], [[], []]
    for token in (4, 5, 6):
        for row in (0, 1):
            logits, states[row] = step([np.array([[token]])], states[row])
            found[row].append(logits)
    np.testing.assert_array_equal(found, alone)
