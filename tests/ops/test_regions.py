"""The two ops with a body: scan carries a state along an axis, repeat stacks layers."""

from __future__ import annotations

import numpy as np
import pytest

from flashir import Builder, FlashirError, Graph, dumps, interpret, loads
from flashir.ir import Value
from tests.support import assert_equal_results, cost_of, lowered, random_array, random_parameters, typed

RUNNING_MEAN = """
model @running(%start: f32[2], %x: f32[2, T], %w: f32[2, T]) -> f32[2], f32[2, T], f32[2, T] {
  %last, %before, %product = scan(%start, %x, %w) {carries = 1, axis = 1} (%s, %a, %b) {
    %p = mul(%a, %b)
    %next = add(%s, %p)
    yield %next, %s, %p
  }
  return %last, %before, %product
}
"""


@pytest.mark.parametrize("length", [0, 1, 5])
def test_scan_carries_a_state_and_stacks_what_each_step_yields(length: int) -> None:
    start, x, w = (random_array(typed(text), i) for i, text in enumerate(("f32[2]", *[f"f32[2, {length}]"] * 2)))
    products = x * w
    after = start[:, None] + np.cumsum(products, axis=1)
    before = np.concatenate([start[:, None], after], axis=1)
    wanted = (before[:, -1], before[:, :-1], products)
    graph = loads(RUNNING_MEAN)
    assert_equal_results(interpret(graph, {}, start, x, w), wanted)
    assert_equal_results(interpret(lowered(graph), {}, start, x, w), wanted)


WEIGHED = """
model @weighed(%start: f32[2], %x: f32[2, T, 3], %w: f32[3, 4]) -> f32[2], f32[2, T, 4] {
  %last, %product = scan(%start, %x, %w) {carries = 1, axis = 1, invariants = 1} (%s, %a, %v) {
    %p = matmul(%a, %v)
    %sum = reduce_sum(%p) {axes = [1]}
    %next = add(%s, %sum)
    yield %next, %p
  }
  return %last, %product
}
"""


@pytest.mark.parametrize("length", [0, 1, 5])
def test_every_step_of_a_scan_sees_an_invariant_whole(length: int) -> None:
    start, x, w = (
        random_array(typed(text), i) for i, text in enumerate(("f32[2]", f"f32[2, {length}, 3]", "f32[3, 4]"))
    )
    graph = loads(WEIGHED)
    assert loads(dumps(graph)) == graph
    for each in (graph, lowered(graph)):
        assert_equal_results(interpret(each, {}, start, x, w), (start + (x @ w).sum((1, 2)), x @ w))


def test_scan_of_whole_numbers_stays_whole_even_without_steps() -> None:
    graph = loads(RUNNING_MEAN.replace("f32", "i32"))
    for length in (0, 2):
        results = interpret(graph, {}, np.zeros(2, int), *[np.ones((2, length), int)] * 2)
        assert [x.dtype for x in results] == [np.dtype(np.int64)] * 3


def test_a_scan_needs_something_to_walk_over_along_an_axis_that_exists() -> None:
    for text, problem in (
        (
            "%a = scan(%x) {carries = 1} (%s) { yield %s }",
            "at least one operand to walk over in addition to its 1 carries",
        ),
        ("%a = scan(%x) {carries = 0, axis = 2} (%s) { yield %s }", "axis 2 is out of range"),
        (
            "%a = scan(%x) {carries = 0, invariants = 1} (%s) { yield %s }",
            "to its 0 carries and 1 invariants",
        ),
    ):
        with pytest.raises(FlashirError, match=problem):
            loads(f"model @m(%x: f32[2, 3]) {{ {text} return %a }}")


def test_scan_costs_its_body_once_a_step() -> None:
    once, often = (cost_of(loads(RUNNING_MEAN), {"T": length}) for length in (1, 5))
    assert (often.flops, often.steps, often.bytes) == (5 * once.flops, 5 * once.steps, 5 * once.bytes)
    assert once.flops > 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("scan(%start, %x, %w) {carries = 1, axis = 1} (%s, %a, %b)", "scan() {carries = 1} ()"), "not defined here"),
        (("%w: f32[2, T]", "%w: f32[2, T + 1]"), "must agree on axis 1"),
        (("yield %next, %s, %p", "yield"), "wanted a value"),
        (("(%s, %a, %b)", "(%s, %a)"), "must name 3 arguments"),
        (("%start: f32[2]", "%start: f32[2, 1]"), "must yield"),
    ],
)
def test_a_scan_that_does_not_fit_its_body_is_refused(change: tuple[str, str], problem: str) -> None:
    with pytest.raises(FlashirError, match=problem):
        loads(RUNNING_MEAN.replace(*change))


def stack(times: int) -> Graph:
    """x -> x W_0 + c -> x W_1 + c -> .., where every layer sees the same c."""

    def layer(b: Builder, h: Value, c: Value) -> Value:
        weight = b.param(name="weight", shape=(3, 3), scope="layers.{i}.mix")
        return b.add(b.matmul(h, weight), c)

    b = Builder("stack")
    x, c = b.input("x", "f32[B, 3]"), b.input("c", "f32[3]")
    return b.finish(b.repeat(x, c, times=times, body=layer))


@pytest.mark.parametrize("times", [0, 1, 3])
def test_repeat_gives_each_layer_parameters_of_its_own(times: int) -> None:
    graph = stack(times)
    params = random_parameters(graph)
    assert list(params) == [f"layers.{i}.mix.weight" for i in range(times)]
    x, c = random_array(typed("f32[2, 3]"), 0), random_array(typed("f32[3]"), 1)
    wanted = x
    for weight in params.values():
        wanted = wanted @ weight + c
    assert_equal_results(interpret(graph, params, x, c), (wanted,))
    assert_equal_results(interpret(lowered(graph), params, x, c), (wanted,))
    assert loads(dumps(graph)) == graph


def test_repeat_costs_its_body_once_a_layer() -> None:
    once, often = (cost_of(stack(times), {"B": 2}) for times in (1, 4))
    assert often.matrix_flops == 4 * once.matrix_flops > 0
    assert often.flops == 4 * once.flops > 0


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("%o = reduce_sum(%h) {axes = [1]}\n yield %o", r"must yield \(f32\[B, 3\]\)"),
        ("yield %h, %h", "must yield one value, it yields 2"),
        ("yield %x", "%x is not defined here"),
    ],
)
def test_a_body_that_does_not_pass_on_what_it_takes_is_refused(body: str, problem: str) -> None:
    text = f"model @m(%x: f32[B, 3]) {{\n %y = repeat(%x) {{times = 2}} (%h) {{\n {body}\n }}\n return %y\n}}"
    with pytest.raises(FlashirError, match=problem):
        loads(text)


def test_more_layers_than_any_model_has_are_refused() -> None:
    with pytest.raises(FlashirError, match="times must be at most"):
        loads("model @m(%x: f32[3]) { %y = repeat(%x) {times = 99999999999} (%h) { yield %h } return %y }")


def test_rounds_of_nested_repeats_are_counted_apart() -> None:
    text = """
    model @m(%x: f32[B, T, 4]) {
      %y = repeat(%x) {times = 2} (%h) {
        %a = flash(%h) {chunk = 2, key_dim = 2, cumsum = "scan"}
        %b = repeat(%a) {times = 3} (%g) {
          %c = gau(%g) {key_dim = 2, max_len = 8}
          yield %c
        }
        yield %b
      }
      return %y
    }
    """
    graph = loads(text)
    params = random_parameters(graph)
    assert {name.split(".")[1] for name in params} == {str(i) for i in range(8)}
    assert params["layers.0.offset_scale.gamma"].shape == params["layers.4.offset_scale.gamma"].shape == (4, 2)
    assert params["layers.1.offset_scale.gamma"].shape == params["layers.7.offset_scale.gamma"].shape == (2, 2)
    x = random_array(typed("f32[1, 3, 4]"), 0)
    assert_equal_results(interpret(lowered(graph), params, x), interpret(graph, params, x), 1e-7)
