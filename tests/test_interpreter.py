"""The oracle: it takes inputs by position or name, counts in float64, and says which input or parameter is wrong."""

from __future__ import annotations

import numpy as np
import pytest

import flashir
from flashir import FlashirError, interpret, loads
from flashir.ir import Graph
from flashir.reference.interpreter import largest
from tests.support import random_parameters

ADD = loads("model @m(%x: f32[B, T], %y: f32[B, T]) { %z = add(%x, %y) return %z, %x }")
LOOKUP = loads("model @m(%ids: i32[B, T]) { %x = embed(%ids) {vocab = 3, dim = 2} return %x }")
ONE, TWO = np.ones((2, 3)), np.full((2, 3), 2.0)


def test_inputs_come_by_position_and_by_name() -> None:
    for z, x in (interpret(ADD, {}, ONE, TWO), interpret(ADD, {}, ONE, y=TWO), interpret(ADD, {}, y=TWO, x=ONE)):
        assert (z == 3).all()
        assert (x == 1).all()


def test_floats_are_counted_in_float64_and_whole_numbers_in_int64() -> None:
    z, _ = interpret(ADD, {}, np.full((1, 1), 2**24, np.float32), np.ones((1, 1), np.float16))
    assert z.dtype == np.float64
    assert z[0, 0] == 2**24 + 1
    whole = loads("model @m(%x: i32[2]) { %y = add(%x, %x) return %y }")
    assert interpret(whole, {}, np.array([1, 2], np.int32))[0].dtype == np.int64


def test_the_largest_number_is_found_in_loops_and_leaves_out_infinities() -> None:
    text = """model @m(%x: f32[2]) {
      %ten = constant() {value = 10.0}
      %y = repeat(%x, %ten) {times = 3} (%h, %ten) { %z = mul(%h, %ten) yield %z }
      %none = constant() {value = -inf}
      %all = add(%y, %none)
      %w = tanh(%all)
      return %w
    }"""
    assert largest(loads(text), {}, [1.0, -2.0]) == 2000.0


def test_lists_are_good_inputs() -> None:
    assert interpret(ADD, {}, [[1, 2]], [[3, 4]])[0].tolist() == [[4, 6]]


def test_inputs_are_not_changed() -> None:
    x, y = ONE.copy(), TWO.copy()
    interpret(ADD, {}, x, y)
    assert (x == ONE).all()
    assert (y == TWO).all()


@pytest.mark.parametrize(
    ("inputs", "named", "problem"),
    [
        ((), {}, r"takes \(x: f32\[B, T\], y: f32\[B, T\]\), got inputs \(\)"),
        ((ONE,), {}, r"got inputs \(0\)"),
        ((ONE, ONE, ONE), {}, r"got inputs \(0, 1, 2\)"),
        ((ONE, TWO), {"z": ONE}, r"got inputs \(0, 1, z\)"),
        ((ONE,), {"z": ONE}, r"got inputs \(0, z\)"),
        ((ONE, np.ones(3)), {}, r"y must have 2 axes, as f32\[B, T\], got shape \(3,\)"),
        ((ONE, np.ones((2, 4))), {}, r"axis 1 of y \(f32\[B, T\]\) must be 3, got 4"),
        ((ONE, ONE * 1j), {}, r"y must be f32\[B, T\], got complex128"),
    ],
)
def test_inputs_that_do_not_fit_are_named(inputs: tuple[object, ...], named: dict[str, object], problem: str) -> None:
    with pytest.raises(FlashirError, match=problem):
        interpret(ADD, {}, *inputs, **named)  # type: ignore[arg-type]


def test_an_input_given_twice_is_refused() -> None:
    with pytest.raises(FlashirError, match=r"got inputs \(0, 1, x\)"):
        interpret(ADD, {}, ONE, TWO, x=ONE)


def test_sizes_that_follow_from_others_are_checked() -> None:
    graph = loads("model @m(%x: f32[T], %y: f32[2*T + 1]) { return %x, %y }")
    assert len(interpret(graph, {}, np.ones(2), np.ones(5))) == 2
    with pytest.raises(FlashirError, match=r"axis 0 of y .* must be 5, got 4"):
        interpret(graph, {}, np.ones(2), np.ones(4))
    alone = loads("model @m(%y: f32[2*T]) { return %y }")
    with pytest.raises(FlashirError, match="no input has an axis T"):
        interpret(alone, {}, np.ones(4))


@pytest.mark.parametrize("ids", [[[0, 3]], [[-1, 0]], [[2**40, 0]]])
def test_ids_outside_the_vocabulary_are_refused_at_every_storey(ids: list[list[int]]) -> None:
    params = {"embed.weight": np.zeros((3, 2))}
    from flashir.backends.lowering import Lowering

    for graph in (LOOKUP, Lowering("primitives").run(LOOKUP)):
        with pytest.raises(FlashirError, match="ids must lie between 0 and 2"):
            interpret(graph, params, ids)
        assert interpret(graph, params, [[0, 2]])[0].shape == (1, 2, 2)


def test_ids_that_are_no_whole_numbers_are_refused() -> None:
    with pytest.raises(FlashirError, match=r"ids must be i32\[B, T\], got float64"):
        interpret(LOOKUP, {"embed.weight": np.zeros((3, 2))}, [[0.5]])


def test_an_empty_input_has_no_type_of_its_own() -> None:
    assert interpret(LOOKUP, {"embed.weight": np.zeros((3, 2))}, np.empty((1, 0)))[0].shape == (1, 0, 2)


def test_every_parameter_that_is_missing_or_misshapen_is_named() -> None:
    graph = flashir.model("flash", size="tiny", chunk=4, depth=1)
    params = random_parameters(graph)
    del params["layers.0.proj_in.bias"]
    params["pos.scale"] = np.zeros(1)
    with pytest.raises(FlashirError) as refused:
        interpret(graph, params, [[1, 2]])
    assert len(refused.value.problems) == 2
    assert "layers.0.proj_in.bias (272,) is missing" in refused.value.message
    assert "pos.scale must have shape (), got (1,)" in refused.value.message


def test_a_chunk_must_be_chosen_but_a_strategy_need_not() -> None:
    graph = flashir.model("flash", size="tiny", depth=1)
    with pytest.raises(FlashirError, match="the chunk is part of the model, and still auto"):
        interpret(graph, random_parameters(graph), [[1, 2]])
    chosen = flashir.model("flash", size="tiny", depth=1, chunk=4)
    assert interpret(chosen, random_parameters(chosen), [[1, 2]])[0].shape == (1, 2, 256)


def test_a_sequence_longer_than_the_bias_spans_is_refused() -> None:
    graph = loads("model @m(%x: f32[B, T, 4]) { %y = gau(%x) {key_dim = 2, max_len = 4} return %y }")
    params = random_parameters(graph)
    assert interpret(graph, params, np.ones((1, 4, 4)))[0].shape == (1, 4, 4)
    with pytest.raises(FlashirError, match="spans max_len = 4 positions, the sequence has 5"):
        interpret(graph, params, np.ones((1, 5, 4)))


def test_infinities_are_numbers_and_warn_of_nothing() -> None:
    graph = loads("model @m(%x: f32[2]) { %y = reciprocal(%x) %z = silu(%x) return %y, %z }")
    y, z = interpret(graph, {}, [0.0, -1000.0])
    assert y[0] == np.inf
    assert z[1] == 0


@pytest.mark.parametrize("op", ["reduce_max", "reduce_min", "reduce_sum"])
@pytest.mark.parametrize("kind", ["f32", "i32"])
def test_a_reduction_of_nothing_is_what_changes_nothing(op: str, kind: str) -> None:
    graph: Graph = loads(f"model @m(%x: {kind}[T]) {{ %y = {op}(%x) {{axes = [0]}} return %y }}")
    x = np.array([3, -4, 5])
    (empty,) = interpret(graph, {}, x[:0])
    (whole,) = interpret(graph, {}, x)
    join = {"reduce_max": max, "reduce_min": min, "reduce_sum": lambda a, b: a + b}[op]
    assert join(empty, whole) == whole
    assert empty.dtype == whole.dtype
