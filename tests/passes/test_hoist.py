"""hoist moves out of a repeat what no round changes, and nothing else."""

from __future__ import annotations

from flashir import Graph, loads
from flashir.transforms.hoist import Hoist
from flashir.transforms.lower import Lower
from tests.support import assert_same_function


def ops_of(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def body_of(graph: Graph) -> Graph:
    (node,) = (each for each in graph.nodes if each.op == "repeat")
    assert node.region is not None
    return node.region


def test_a_table_is_computed_once() -> None:
    graph = loads("""
    model @m(%x: f32[B, 4], %c: f32[4]) {
      %y = repeat(%x, %c) {times = 3} (%h, %k) {
        %e = exp(%k)
        %i = iota() {length = 4, dtype = f32}
        %t = mul(%e, %i)
        %s = add(%h, %t)
        yield %s
      }
      return %y
    }
    """)
    made = Hoist().apply(graph)
    assert ops_of(made) == ["exp", "iota", "mul", "repeat"]
    assert ops_of(body_of(made)) == ["add"]
    assert_same_function(graph, made, {"B": 2})


def test_a_constant_stays_where_it_is_used() -> None:
    graph = loads("""
    model @m(%x: f32[4]) {
      %y = repeat(%x) {times = 3} (%h) {
        %one = constant() {value = 1.0}
        %s = add(%h, %one)
        yield %s
      }
      return %y
    }
    """)
    assert Hoist().apply(graph) is graph or Hoist().apply(graph) == graph


def test_what_leaves_the_inner_repeat_leaves_the_outer_one_too() -> None:
    graph = loads("""
    model @m(%x: f32[4]) {
      %y = repeat(%x) {times = 2} (%h) {
        %z = repeat(%h) {times = 2} (%g) {
          %i = iota() {length = 4, dtype = f32}
          %e = exp(%i)
          %s = add(%g, %e)
          yield %s
        }
        yield %z
      }
      return %y
    }
    """)
    made = Hoist().apply(graph)
    assert ops_of(made) == ["iota", "exp", "repeat"]
    assert ops_of(body_of(made)) == ["repeat"]
    assert ops_of(body_of(body_of(made))) == ["add"]
    assert_same_function(graph, made)


def test_a_body_that_yields_an_invariant_yields_it_still() -> None:
    graph = loads("""
    model @m(%x: f32[4], %c: f32[4]) {
      %y = repeat(%x, %c) {times = 2} (%h, %k) {
        %e = exp(%k)
        yield %e
      }
      return %y
    }
    """)
    made = Hoist().apply(graph)
    assert ops_of(made) == ["exp", "repeat"]
    assert_same_function(graph, made)


def test_parameters_that_differ_from_round_to_round_stay() -> None:
    graph = loads("""
    model @m(%x: f32[2, 4]) {
      %y = repeat(%x) {times = 2} (%h) {
        %w = param() {name = "w", shape = [2, 4], scope = "layers.{i}"}
        %s = add(%h, %w)
        yield %s
      }
      return %y
    }
    """)
    assert Hoist().apply(graph) == graph


def test_a_loop_over_invariants_stays_where_its_parameters_count_the_rounds() -> None:
    """The inner repeat depends on no value of the outer round, but its parameters do."""
    graph = loads("""
    model @m(%x: f32[1, 3, 4], %c: f32[1, 3, 4]) {
      %y = repeat(%x, %c) {times = 2} (%h, %k) {
        %z = repeat(%k) {times = 2} (%g) {
          %a = gau(%g) {key_dim = 2, max_len = 4}
          yield %a
        }
        %s = add(%h, %z)
        yield %s
      }
      return %y
    }
    """)
    made = Hoist().apply(Lower().apply(graph))
    assert "repeat" in ops_of(body_of(made))
    assert_same_function(graph, made)
