"""flashir ops: every fact on the record of an op is shown, also of ops from plug-ins."""

from __future__ import annotations

import pytest

import flashir
from flashir.cli.ops import GROUPS, about, group_of
from flashir.ir.op import REQUIRED
from flashir.ops import OPS, all_ops, opdef
from tests.cli.conftest import Cli
from tests.plugins.support import Install, install
from tests.plugins.test_plugins import CUBE

__all__ = ["install"]


def test_all_ops_are_listed_layers_first(cli: Cli) -> None:
    listed = cli.json("ops")["ops"]
    assert {op["name"] for op in listed} == {op.name for op in all_ops()}
    groups = list(dict.fromkeys(op["group"] for op in listed))
    assert groups == [*GROUPS]


@pytest.mark.parametrize("name", ["flash", "rope", "matmul", "repeat", "scan", "param"])
def test_an_op_shows_what_its_record_has(cli: Cli, name: str) -> None:
    record, facts, shown = opdef(name), cli.json("ops", name), cli.ok("ops", name)
    assert [setting["name"] for setting in facts["settings"]] == list(record.attrs)
    for setting, spec in zip(facts["settings"], record.attrs.values(), strict=True):
        assert (setting["default"] is None) == (spec.default is REQUIRED)
        assert (setting["auto"] is None) == (spec.choice is None)
        assert setting["name"] in shown and setting["doc"] in shown
    assert record.doc in shown and record.source in shown
    assert facts["example"] in shown


def test_the_example_of_every_op_is_a_model_with_it() -> None:
    for record in OPS.values():
        facts = about(record)
        assert any(node.op == record.name for node in flashir.loads(facts["example"]).nodes), record.name
        assert facts["shapes"][0]["results"], record.name
        assert group_of(record) in GROUPS
        assert facts["backends"] or not record.is_primitive, f"no backend has the primitive {record.name}"


def test_settings_without_a_default_are_required(cli: Cli) -> None:
    assert "required" in cli.ok("ops", "embed")


def test_ops_of_plug_ins_are_grouped_by_plug_in(cli: Cli, install: Install) -> None:
    install("cubes", CUBE + "cube('cube')")
    facts = cli.json("ops", "cube")
    assert facts["group"] == "cubes" and "%x: f32[3]" in facts["example"]
    assert "cube" in cli.ok("ops")


def test_an_unknown_op_is_refused_with_the_nearest(cli: Cli) -> None:
    assert "unknown op 'flsh'; did you mean 'flash'" in cli.fails("ops", "flsh")
