"""Choices are data: an op that brings its own is planned, settled, locked and explained like any other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.errors import SettingError
from flashir.ir import AUTO, Builder, Graph
from flashir.ir.choices import Choice
from flashir.ir.cost import elementwise
from flashir.ir.op import choice, integer
from flashir.ir.settings import Settings
from flashir.machine.targets import target
from flashir.ops import OPS, OpDef, ParamSpec, define_op, sample
from flashir.planning.predict import Predictor
from flashir.planning.search_space import search_space
from flashir.planning.workload import Workload
from flashir.transforms.registry import parse_pipeline
from flashir.transforms.settle_choices import settle, slots


def _define(name: str, **attrs: Any) -> OpDef:
    """An op that adds 1 in one of several ways: the choice changes its cost alone."""

    def decompose(b: Builder, x: Any, **settings: Any) -> Any:
        for _ in range({"slow": 8, "fast": 1}.get(str(settings.get("way")), 1)):
            x = b.add(b.sin(x), 1.0)
        return x

    return define_op(
        OpDef(
            name,
            ("x",),
            infer=lambda x, **_: x,
            ref=lambda x, **_: np.sin(x) + 1,
            cost=elementwise(1),
            samples=(sample("f32[2, 3, 4]"),),
            attrs=attrs,
            decompose=decompose,
        )
    )


@pytest.fixture
def ops() -> Iterator[dict[str, OpDef]]:
    """The table of ops, which is as it was afterwards."""
    before = dict(OPS)
    yield OPS
    for name in set(OPS) - set(before):
        del OPS[name]


def _model(*nodes: tuple[str, dict[str, Any]]) -> Graph:
    b = Builder("choices")
    x = b.embed(b.input("ids", "i32[B, T]"), vocab=64, dim=16)
    for op, attrs in nodes:
        (x,) = b.insert(op, (x,), attrs)
    return b.finish(b.unembed(x))


WAY = Choice(("slow", "fast"), "the {} way")


def test_an_op_with_strategies_of_its_own_is_planned_by_them(ops: dict[str, OpDef]) -> None:
    _define("twofold", way=choice("slow", "fast", default=AUTO, choice=WAY))
    found = flashir.plan(_model(("twofold", {})), measured=False)
    assert [each.settings["way"] for each in found.candidates] == ["slow", "fast"]
    assert found.settings == Settings(way="fast")
    assert found.as_dict()["way"] == "fast" and found.as_dict()["chunk"] is None
    assert found.why.startswith("The fast way: slow takes ")
    assert flashir.plan(_model(("twofold", {})), way="slow", measured=False).settings == Settings(way="slow")
    (chosen,) = parse_pipeline("choose-way{way=slow}")
    assert 'way = "slow"' in flashir.dumps(chosen.apply(_model(("twofold", {}))))


def test_an_op_that_cannot_have_every_value_is_offered_those_it_can(ops: dict[str, OpDef]) -> None:
    narrow = Choice(("slow", "fast"), "the {} way", available=lambda node: ("slow",))
    _define("narrow", way=choice("slow", "fast", default=AUTO, choice=narrow))
    found = flashir.plan(_model(("narrow", {})), measured=False)
    assert [each.settings for each in found.candidates] == [Settings(way="slow")]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((), "the choice 'way' of the op 'odd' has no candidate"),
        (("slow", "slow"), "the choice 'way' of the op 'odd' has a candidate twice: ('slow', 'slow')"),
        (("slow", "quick"), "has an invalid candidate: way must be one of 'slow', 'fast', got 'quick'"),
    ],
)
def test_an_op_whose_choice_has_wrong_candidates_is_refused(values: tuple[str, ...], told: str) -> None:
    with pytest.raises(SettingError, match=re.escape(told)):
        _define("odd", way=choice("slow", "fast", default=AUTO, choice=Choice(values, "the {} way")))
    assert "odd" not in OPS


def test_a_choice_that_does_not_exist_is_told_by_name() -> None:
    with pytest.raises(SettingError, match="no argument or choice 'chnk'; did you mean 'chunk'"):
        flashir.plan(flashir.model("flash", size="tiny"), chnk=64)
    with pytest.raises(SettingError, match="tile cannot be set: @flash has no op with one"):
        flashir.plan(flashir.model("flash", size="tiny"), tile=64)


def test_a_tile_can_be_set_by_hand() -> None:
    found = flashir.plan(flashir.model("performer", size="tiny"), tile=48, measured=False)
    assert {each.tile for each in found.candidates} == {48}
    assert {each.cumsum for each in found.candidates} == {"scan", "matmul", "native"}


def test_an_op_with_nothing_to_choose_has_one_candidate() -> None:
    found = flashir.plan(flashir.model("transformer++", size="tiny"), measured=False)
    assert [each.settings for each in found.candidates] == [Settings()]


@pytest.mark.slow
def test_each_op_has_its_own_value_of_a_choice_that_both_have() -> None:
    graph = _model(("flash", {"key_dim": 8}), ("mc_mhsa", {"heads": 2}))
    assert [slot.name for slot in slots(graph)] == ["flash.chunk", "mc_mhsa.chunk", "flash.cumsum", "mc_mhsa.cumsum"]
    settings = {"flash.chunk": 64, "mc_mhsa.chunk": 128, "cumsum": "scan"}
    settled = {node.op: node.attrs for node in settle(graph, settings).walk()}
    assert (settled["flash"]["chunk"], settled["mc_mhsa"]["chunk"]) == (64, 128)
    found = flashir.plan(graph, seq_len=512, measured=False)
    assert found.as_dict()["choices"] == dict(found.settings)
    assert found.chunk == found.settings["flash.chunk"]


@pytest.mark.slow
def test_searching_ops_one_by_one_finds_what_all_combinations_would() -> None:
    graph = _model(("flash", {"key_dim": 8}), ("performer", {"heads": 2}))
    predictor = Predictor(target("onnx:cpu"), Workload(1, 64), policy="fastest")
    one, other = search_space(graph, 64)
    every = [predictor.predict(graph, first | second) for first, second in product(one, other)]
    best = flashir.plan(graph, seq_len=64, policy="fastest", measured=False)
    assert best.predicted_ms == pytest.approx(min(each.predicted_ms for each in every), rel=1e-3)
    assert len(best.candidates) < len(every) / 2


def test_what_changes_the_function_is_locked_by_parameters_and_what_does_not_is_not(ops: dict[str, OpDef]) -> None:
    width = Choice((2, 4), "width {}", changes_function=True)
    record = _define(
        "sized", width=integer(AUTO, least=1, choice=width), way=choice("slow", "fast", default=AUTO, choice=WAY)
    )
    del OPS["sized"]

    def params(x: Any, width: Any, **_: Any) -> dict[str, ParamSpec]:
        return {"extra": ParamSpec((4 if width is AUTO else width,))}

    define_op(
        replace(
            record, params=params, scope="layers", ref=lambda x, p, **_: x, decompose=lambda b, x, p, **_: b.mul(x, 1.0)
        )
    )
    graph = _model(("sized", {}))
    fixed = settle(graph, {"width": 2})
    weights = flashir.init(fixed)
    assert flashir.plan(graph, params=weights, measured=False).settings["width"] == 2
    assert flashir.plan(fixed, params=weights, way="slow", measured=False).settings["way"] == "slow"
    with pytest.raises(SettingError, match="width is locked to 2, got 4"):
        flashir.plan(fixed, params=weights, width=4, measured=False)
