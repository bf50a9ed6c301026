"""States of a step are renewed where they stand, where that is safe, and are told not to be where it is not."""

from __future__ import annotations

import numpy as np

from flashir.backends.decoding import decoding
from flashir.backends.lowering import Lowering
from flashir.ir import Builder
from flashir.models.parameters import unit
from flashir_onnx.continuing import continued, renewed
from tests.decode.support import ROOM, model

LOWERING = Lowering.of("onnx:cpu")


def in_place(name: str) -> dict[str, bool]:
    made = decoding(model(name), max_len=ROOM)
    return dict(zip((state.name for state in made.state), renewed(LOWERING.run(made.step)), strict=True))


def test_what_is_large_is_renewed_in_place() -> None:
    assert in_place("flash") == {
        "position": False,
        **{f"layers.{i}.{name}": True for i in range(2) for name in ("sum", "quad_k", "lin_k", "v")},
    }
    assert {name for name, here in in_place("combiner").items() if not here} == {
        "position",
        *(name for name in in_place("combiner") if name.endswith("open")),
    }
    for name in ("transformer++", "flash-quad", "performer", "mc-transformer++"):
        assert [state for state, here in in_place(name).items() if not here] == ["position"]


def test_what_something_else_reads_is_not() -> None:
    b = Builder("m")
    x, state = b.input("x", "f32[B, 2]"), b.input("state", "f32[B, 2]")
    after = b.add(state, x)
    assert renewed(b.finish(after, after)) == (True,)
    b = Builder("m")
    x, state = b.input("x", "f32[B, 2]"), b.input("state", "f32[B, 2]")
    assert renewed(b.finish(b.mul(state, x), b.add(state, x))) == (False,)
    b = Builder("m")
    x, state = b.input("x", "f32[B, 2]"), b.input("state", "f32[B, 2]")
    assert renewed(b.finish(x, b.mul(state, x))) == (False,)
    b = Builder("m")
    x, state = b.input("x", "f32[B, 2]"), b.input("state", "f32[2]")
    assert renewed(b.finish(x, b.add(state, x))) == (False,)


def test_a_step_writes_over_the_states_that_it_was_given() -> None:
    graph = model("flash")
    made = decoding(graph)
    prefill, step = (continued(LOWERING.run(each), unit(graph), "cpu") for each in (made.prefill, made.step))
    _, states = prefill([np.array([[1, 2, 3]]), np.array([3])], ())
    old = [state.numpy().copy() for state in states]
    _, after = step([np.array([[4]])], states)
    for spec, before, state, new in zip(made.state, old, states, after, strict=True):
        assert (new is state) == (spec.name != "position")
        assert (new.numpy() != before).any()


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
