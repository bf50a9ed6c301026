"""parse(print(g)) == g, exactly, at every level; and what the text looks like."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from flashir import AUTO, Builder, DType, Graph, dumps, loads
from flashir.ir import Attr, Node, TensorType, Value, parse_type, symbol
from flashir.ir.choices import Choice
from flashir.ir.cost import free
from flashir.ir.op import AttrSpec
from flashir.ir.verify import verify
from flashir.ops import OPS, OpDef
from tests.strategies import attributes, every_storey, types

DESIGN = """model @flash_base(%ids: i32[B, T]) -> f32[B, T, 32000] {
  %x = embed(%ids) {vocab = 32000, dim = 768}
  %y = scaled_sin(%x)
  %z = repeat(%y) {times = 24} (%h) {
    %o = flash(%h) {expansion = 2, key_dim = 128, chunk = auto, cumsum = auto, norm = "layer_norm", causal = true}
    yield %o
  }
  %n = layer_norm(%z)
  %l = unembed(%n) {tied = true}
  return %l
}
"""


@pytest.mark.slow
@settings(max_examples=60)
@given(every_storey())
def test_the_text_of_a_graph_reads_back_as_the_graph(graph: Graph) -> None:
    verify(graph)
    text = dumps(graph)
    again = loads(text)
    assert again == graph
    assert dumps(again) == text


@given(every_storey())
def test_types_in_the_text_change_nothing(graph: Graph) -> None:
    assert loads(dumps(graph, types=True)) == graph


@given(types())
def test_the_text_of_a_type_reads_back(type_: TensorType) -> None:
    assert parse_type(str(type_)) == type_


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """An op whose attribute may be anything."""
    anything = AttrSpec((object, bool), default=None, choice=Choice((1,), "x {}"), items=(object, bool))
    record = OpDef(
        "probe",
        (),
        infer=lambda value: TensorType(DType.F32, ()),
        ref=lambda value: 0.0,
        cost=free,
        samples=(),
        attrs={"value": anything},
    )
    monkeypatch.setitem(OPS, "probe", record)


def with_attribute(value: Any) -> Graph:
    node = Node("probe", (), (Value("a", TensorType(DType.F32, ())),), {"value": value})
    return Graph("m", (), (node,), node.outputs)


@pytest.mark.usefixtures("probe")
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(attributes())
def test_the_text_of_an_attribute_reads_back_with_its_type(value: Attr) -> None:
    graph = with_attribute(value)
    (node,) = loads(dumps(graph)).nodes
    assert node.attrs["value"] == value
    assert repr(node.attrs["value"]) == repr(value)


@pytest.mark.usefixtures("probe")
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (None, None),
        (AUTO, "auto"),
        (-3, "-3"),
        (-1.5, "-1.5"),
        (1e300, "1e+300"),
        (5e-324, "5e-324"),
        (float("inf"), "inf"),
        (float("-inf"), "-inf"),
        ('say "\\n"\n', '"say \\"\\\\n\\"\\n"'),
        ("// no comment # either", '"// no comment # either"'),
        ("({[", '"({["'),
        ("é→", '"é→"'),
        ("string", '"string"'),
        (("string", "x"), '["string", "x"]'),
        ((), "[]"),
        ((1, (2, symbol("T") + 1)), "[1, [2, T + 1]]"),
        (DType.BF16, "bf16"),
        (symbol("T") * -2, "-2*T"),
    ],
)
def test_attributes_look_as_they_are_written(value: Attr, text: str | None) -> None:
    printed = dumps(with_attribute(value))
    assert f"probe(){'' if text is None else f' {{value = {text}}}'}\n" in printed
    (node,) = loads(printed).nodes
    assert repr(node.attrs["value"]) == repr(value)


def test_the_example_of_the_design_parses_and_prints() -> None:
    graph = loads(DESIGN)
    assert [node.op for node in graph.walk()] == ["embed", "scaled_sin", "repeat", "flash", "layer_norm", "unembed"]
    flash = next(node for node in graph.walk() if node.op == "flash")
    assert flash.attrs["chunk"] is AUTO
    assert loads(dumps(graph)) == graph
    assert str(graph) == dumps(graph)


def test_attributes_at_their_default_are_left_out() -> None:
    assert "%o = flash(%h)\n" in dumps(loads(DESIGN))


def test_an_optional_operand_is_given_by_name() -> None:
    b = Builder()
    x, ids = b.input("x", "f32[2, 3, 4]"), b.input("ids", "i32[2, 3]")
    graph = b.finish(b.flash(x, segment_ids=ids, chunk=2))
    assert "flash(%x, segment_ids = %ids)" in dumps(graph)
    assert loads(dumps(graph)) == graph
    assert graph == loads(dumps(graph).replace("segment_ids = %ids", "%ids"))


def test_comments_and_white_space_mean_nothing() -> None:
    text = DESIGN.replace("{", "{ // why\n").replace("(", "(\n#( [ {\n").replace(",", "\t,\r\n")
    assert loads(text) == loads(DESIGN)


def test_the_head_may_leave_the_result_types_out() -> None:
    assert loads(DESIGN.replace("-> f32[B, T, 32000] ", "")) == loads(DESIGN)


def test_zero_and_minus_zero_are_two_numbers() -> None:
    b = Builder()
    x = b.input("x", "f32[2]")
    graph = b.finish(b.pad(x, axis=0, after=1, value=-0.0))
    assert "value = -0.0" in dumps(graph)
    assert repr(loads(dumps(graph)).nodes[0].attrs["value"]) == "-0.0"


def test_names_survive() -> None:
    text = "model @a.b-c+d_1(%0: f32[2], %x.y_1: f32[2]) -> f32[2] {\n  %3 = add(%0, %x.y_1)\n  return %3\n}\n"
    assert dumps(loads(text)) == text


def test_an_empty_model_returns_its_input_twice() -> None:
    text = "model @m(%x: bool[]) -> bool[], bool[] {\n  return %x, %x\n}\n"
    assert dumps(loads(text)) == text


def test_types_are_shown_after_a_body() -> None:
    text = dumps(loads(DESIGN), types=True)
    assert "%x = embed(%ids) {vocab = 32000, dim = 768} : f32[B, T, 768]" in text
    assert "  } : f32[B, T, 768]" in text
