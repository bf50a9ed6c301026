"""A graph made by hand is checked as one made by the builder is; each fault is shown in its surroundings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from flashir import Builder, DType, FlashirError, Graph, TensorType
from flashir.ir import Node, Value
from flashir.ir.verify import verify
from tests.strategies import every_storey

F4 = TensorType(DType.F32, (4,))
X, Y, Z = (Value(name, F4) for name in "xyz")


def chain(*ops: str) -> Graph:
    b = Builder("chain")
    x = b.input("x", F4)
    for op in ops:
        x = b.insert(op, (x,))[0]
    return b.finish(x)


def with_node(position: int, **changes: Any) -> Graph:
    graph = chain("relu", "exp", "sin", "cos", "tanh", "neg")
    nodes = list(graph.nodes)
    nodes[position] = replace(nodes[position], **changes)
    return replace(graph, nodes=tuple(nodes))


def problems_of(graph: Graph) -> str:
    with pytest.raises(FlashirError) as refused:
        verify(graph)
    return refused.value.message


@given(every_storey())
def test_what_the_builder_makes_is_well_formed(graph: Graph) -> None:
    verify(graph)


@given(every_storey())
def test_a_graph_without_one_of_its_nodes_is_not(graph: Graph) -> None:
    used = {value for node in graph.nodes for value in node.operands} | set(graph.outputs)
    missing = next((i for i, node in enumerate(graph.nodes) if not used.isdisjoint(node.outputs)), None)
    if missing is not None:
        nodes = graph.nodes[:missing] + graph.nodes[missing + 1 :]
        with pytest.raises(FlashirError, match=r"no node before it makes|is made by no node"):
            verify(replace(graph, nodes=nodes))


def test_the_op_is_shown_with_its_neighbours() -> None:
    message = problems_of(with_node(3, op="coz"))
    assert "unknown op 'coz'" in message
    lines = message.split("\n")[-5:]
    assert [line.split("= ")[1].split("(")[0] for line in lines] == ["exp", "sin", "coz", "tanh", "neg"]
    assert [line.strip().startswith(">>") for line in lines] == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("graph", "problem"),
    [
        (with_node(1, outputs=(Value("exp_0", TensorType(DType.F32, (5,))),)), r"exp makes f32\[4\], its results say"),
        (with_node(1, inputs=(Z,)), r"exp uses %z: f32\[4\], which no node before it makes"),
        (with_node(1, inputs=(Value("tanh_0", F4),)), "exp uses %tanh_0"),
        (with_node(1, inputs=()), "exp: takes 1 operands or more"),
        (with_node(1, inputs=(X, X)), "exp: takes 1 operands or more"),
        (with_node(1, outputs=(X,)), "%x is defined twice"),
        (with_node(1, outputs=(Value("a b", F4),)), "'a b' is not a valid name"),
        (with_node(1, attrs={"axis": 1}), "exp has no attribute 'axis'"),
        (with_node(1, attrs={1: 2}), "exp has no attribute 1"),
        (with_node(1, op="cumsum"), "cumsum needs the attribute 'axis'"),
        (with_node(1, op="cumsum", attrs={"axis": 0}), "cumsum: lacks attributes: it has"),
        (with_node(1, region=chain("relu")), "exp takes no body"),
        (Graph("m", (X, X), (), (X,)), "%x is an input twice"),
        (Graph("m", (X,), (), (Y,)), "the result %y: f32.* is made by no node"),
        (Graph("m m", (X,), (), (X,)), "'m m' is not a valid name"),
        (Graph("m", (Value("", F4),), (), ()), "'' is not a valid name"),
        (Graph("m", (X,), (Node("split", (X,), (Y, Y), {"axis": 0, "sizes": (2, 2)}),), (X,)), "%y is defined twice"),
    ],
)
def test_a_fault_is_named(graph: Graph, problem: str) -> None:
    with pytest.raises(FlashirError, match=problem):
        verify(graph)


def test_faults_in_a_body_are_found() -> None:
    b = Builder()
    x = b.input("x", F4)
    graph = b.finish(b.repeat(x, times=2, body=lambda b, h: b.relu(h)))
    (node,) = graph.nodes
    assert node.region is not None
    broken = replace(node.region, nodes=tuple(replace(each, op="relo") for each in node.region.nodes))
    assert "unknown op 'relo'" in problems_of(replace(graph, nodes=(replace(node, region=broken),)))


def test_every_fault_is_told_at_once() -> None:
    graph = with_node(1, op="expo")
    nodes = (*graph.nodes[:4], replace(graph.nodes[4], op="tan"), graph.nodes[5])
    message = problems_of(replace(graph, nodes=nodes))
    assert "2 problems" in message
    assert "unknown op 'expo'" in message
    assert "unknown op 'tan'" in message
