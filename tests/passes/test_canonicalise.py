"""canonicalise folds what is known, merges what is equal, drops what is unused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flashir import Builder, DType, Graph, interpret, loads
from flashir.ir import Value, symbol
from flashir.transforms.canonicalise import Canonicalise

T = symbol("T")


def canonical(build: Callable[[Builder, Value], Value]) -> Graph:
    b = Builder()
    x = b.input("x", "f32[T, 4]")
    return Canonicalise().apply(b.finish(build(b, x)))


IDENTITIES: dict[str, Callable[[Builder, Value], Value]] = {
    "add(x, 0)": lambda b, x: b.add(x, 0.0),
    "add(0, x)": lambda b, x: b.add(b.constant(0.0), x),
    "sub(x, 0)": lambda b, x: b.sub(x, 0.0),
    "mul(x, 1)": lambda b, x: b.mul(x, 1.0),
    "mul(1, x)": lambda b, x: b.mul(b.constant(1.0), x),
    "div(x, 1)": lambda b, x: b.div(x, 1.0),
    "cast(x)": lambda b, x: b.cast(x, dtype=DType.F32),
    "broadcast(x)": lambda b, x: b.broadcast(x, shape=(T, 4)),
    "pad(x) by nothing": lambda b, x: b.pad(x, axis=0),
    "reshape(x)": lambda b, x: b.reshape(x, shape=(T, 4)),
    "reshape(reshape(x))": lambda b, x: b.reshape(b.reshape(x, shape=(4 * T,)), shape=(T, 4)),
    "transpose(x)": lambda b, x: b.transpose(x, perm=(0, 1)),
    "slice(x) of all": lambda b, x: b.slice(x, axis=0, stop=T),
    "slice(pad(x))": lambda b, x: b.slice(b.pad(x, axis=0, after=3), axis=0, stop=T),
    "concat(x)": lambda b, x: b.concat(x, axis=0),
    "split(x) into one": lambda b, x: b.split(x, axis=1, sizes=(4,)),
    "mul(x, 3 - 2)": lambda b, x: b.mul(x, b.sub(b.constant(3.0), 2.0)),
    "mul(x, exp(size - 5))": lambda b, x: b.mul(x, b.exp(b.sub(b.size(value=5, dtype=DType.F32), 5.0))),
}

KEPT: dict[str, Callable[[Builder, Value], Value]] = {
    "sub(0, x)": lambda b, x: b.sub(b.constant(0.0), x),
    "div(1, x)": lambda b, x: b.div(b.constant(1.0), x),
    "add(x, 0) that widens": lambda b, x: b.add(x, b.broadcast(b.constant(0.0), shape=(2, 1, 1))),
    "cast(cast(x)) through another type": lambda b, x: b.cast(b.cast(x, dtype=DType.F16), dtype=DType.F32),
    "slice(x) past the start": lambda b, x: b.slice(b.pad(x, axis=0, before=1), axis=0, start=0, stop=T),
    "slice(pad(x)) of another axis": lambda b, x: b.slice(b.pad(x, axis=0, after=T), axis=1, stop=4),
    "reverse(reverse(x)) on two axes": lambda b, x: b.reverse(b.reverse(x, axis=0), axis=1),
    "reciprocal(0), which is no number": lambda b, x: b.mul(x, b.reciprocal(b.constant(0.0))),
    "inf - inf": lambda b, x: b.mul(x, b.sub(b.constant(float("inf")), float("inf"))),
    "exp(1000)": lambda b, x: b.mul(x, b.exp(b.constant(1000.0))),
}


@pytest.mark.parametrize("build", IDENTITIES.values(), ids=IDENTITIES)
def test_what_changes_nothing_is_dropped(build: Callable[[Builder, Value], Value]) -> None:
    graph = canonical(build)
    assert not graph.nodes
    assert graph.outputs == graph.inputs


@pytest.mark.parametrize("build", KEPT.values(), ids=KEPT)
def test_what_changes_something_is_kept(build: Callable[[Builder, Value], Value]) -> None:
    graph = canonical(build)
    assert graph.outputs != graph.inputs
    b = Builder()
    before = b.finish(build(b, b.input("x", "f32[T, 4]")))
    assert len(graph.nodes) >= 1
    x = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
    (got,), (wanted,) = interpret(graph, {}, x), interpret(before, {}, x)
    assert got.tolist() == wanted.tolist() or (got != got).all() == (wanted != wanted).all()


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (lambda b: b.mul(b.constant(2.0), 3.0), 6.0),
        (lambda b: b.reciprocal(b.constant(4.0)), 0.25),
        (lambda b: b.maximum(b.constant(2, DType.I32), 3), 3),
        (lambda b: b.less(b.constant(2.0), 3.0), True),
        (lambda b: b.logical_and(b.less(b.constant(2.0), 3.0), b.less(b.constant(4.0), 3.0)), False),
        (lambda b: b.cast(b.constant(2.5), dtype=DType.I32), 2),
        (lambda b: b.sqrt(b.constant(-1.0)), 0.0),
        (lambda b: b.size(value=7, dtype=DType.F32), 7.0),
        (lambda b: b.exp(b.constant(float("-inf"))), 0.0),
    ],
)
def test_constants_are_folded_by_the_ops_own_reference(expression: Callable[[Builder], Value], value: object) -> None:
    b = Builder()
    wanted = expression(b)
    graph = Canonicalise().apply(b.finish(wanted))
    (node,) = graph.nodes
    assert node.op == "constant"
    assert node.output.type == wanted.type
    assert node.attrs["value"] == value
    assert type(node.attrs["value"]) is type(value)


def test_equal_nodes_are_merged_and_unequal_ones_are_not() -> None:
    graph = canonical(lambda b, x: b.add(b.mul(b.relu(x), 2.0), b.mul(b.relu(x), 2.0)))
    assert [node.op for node in graph.nodes] == ["relu", "constant", "mul", "add"]
    graph = canonical(lambda b, x: b.add(b.cumsum(x, axis=0), b.cumsum(x, axis=1)))
    assert [node.op for node in graph.nodes] == ["cumsum", "cumsum", "add"]


def test_one_as_a_number_a_whole_number_and_a_truth_are_three_constants() -> None:
    b = Builder()
    made = [b.constant(1.0, DType.F64), b.constant(1, DType.I64), b.constant(True, DType.BOOL)]
    assert len(Canonicalise().apply(b.finish(*made)).nodes) == 3


def test_zero_and_minus_zero_are_two_constants() -> None:
    graph = canonical(lambda b, x: b.div(b.mul(x, b.constant(0.0)), b.mul(x, b.constant(-0.0))))
    assert [node.op for node in graph.nodes].count("constant") == 2


def test_equal_loops_are_merged() -> None:
    text = """
    model @m(%x: f32[4]) {
      %a = repeat(%x) {times = 2} (%h) {
        %s = sin(%h)
        yield %s
      }
      %b = repeat(%x) {times = 2} (%h) {
        %s = sin(%h)
        yield %s
      }
      %c = add(%a, %b)
      return %c
    }
    """
    assert [node.op for node in Canonicalise().apply(loads(text)).nodes] == ["repeat", "add"]


def test_dead_nodes_go_in_bodies_too() -> None:
    text = """
    model @m(%x: f32[4]) {
      %dead = exp(%x)
      %deader = exp(%dead)
      %a = repeat(%x) {times = 2} (%h) {
        %unused = cos(%h)
        %s = sin(%h)
        yield %s
      }
      return %a
    }
    """
    assert [node.op for node in Canonicalise().apply(loads(text)).walk()] == ["repeat", "sin"]


def test_a_node_of_which_one_result_is_used_stays_whole() -> None:
    graph = canonical(lambda b, x: b.split(x, axis=1, sizes=(1, 3)))
    assert [len(node.outputs) for node in graph.nodes] == [2]
