"""A plug-in that fails is named where it matters, and everything else goes on working."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import flashir
from flashir.backends.registry import backend
from flashir.cli.doctor import State, examine_plugins
from flashir.cli.machine import Presence
from flashir.errors import FlashirError, SettingError, TargetError
from flashir.importing.importer import file_importers
from flashir.machine.targets import record_files, target, target_names
from flashir.plugins import start, working
from tests.cli.conftest import Cli
from tests.plugins.support import Install, forget, install

__all__ = ["install"]

MODELS = """
class Models:
    name = "models"
    def models(self):
        return {}
    def build(self, model, settings):
        return {}
"""
FORMAT = """
class Format:
    name, reads = "odd", "an odd file"
    def read(self, path, verify):
        return {}
"""
RECORDS = "from pathlib import Path\nTARGETS = Path(__file__).parent / 'records'"


def findings() -> dict[str, tuple[State, str]]:
    """The state and the detail of each part that `doctor` examines."""
    return {finding.part: (finding.state, finding.detail) for finding in examine_plugins()}


@pytest.mark.parametrize("code", ["1 / 0", "class Format: name = 'odd'"])
def test_an_importer_that_does_not_load_is_named_where_no_other_reads_the_file(
    install: Install, tmp_path: Path, code: str
) -> None:
    install("odd", code, importers="odd:Format")
    (tmp_path / "m.odd").write_text("")
    with pytest.raises(FlashirError, match=r"this is none of [^']*the plug-in 'odd'"):
        flashir.convert(tmp_path / "m.odd")
    state, detail = findings()["importer of odd"]
    assert state is State.BROKEN and detail.startswith("the plug-in 'odd'")
    assert {"artefact", "hub", "onnx"} <= {*file_importers()}


def test_an_importer_that_reads_no_model_is_at_fault(install: Install, tmp_path: Path) -> None:
    install("odd", FORMAT.format("3"), importers="odd:Format")
    (tmp_path / "m.odd").write_text("")
    with pytest.raises(TargetError, match=r"the plug-in 'odd' \(odd:Format\) failed: it read 3, not a Converted"):
        flashir.convert(tmp_path / "m.odd")


def test_a_frontend_that_cannot_name_its_models_leaves_those_of_the_others(install: Install) -> None:
    install("odd", MODELS.format("{}['names']", "None"), frontends="odd:Models")
    assert flashir.model("flash", size="tiny").name == "flash"
    with pytest.raises(SettingError, match=r"unknown model 'flush'(.|\n)*the plug-in 'odd' \(odd:Models\) failed"):
        flashir.model("flush")
    assert findings()["models of odd"][0] is State.BROKEN


def test_a_frontend_that_builds_no_graph_is_at_fault(install: Install) -> None:
    install("odd", MODELS.format("{'strange': 'a model'}", "3"), frontends="odd:Models")
    with pytest.raises(
        TargetError, match=r"the plug-in 'odd' \(odd:Models\) failed: it built 3 as the model 'strange'"
    ):
        flashir.model("strange")


def test_a_model_of_two_frontends_is_refused_with_both(install: Install) -> None:
    install("odd", MODELS.format("{'flash': 'another'}", "None"), frontends="odd:Models")
    assert flashir.model("performer", size="tiny").name == "performer"
    with pytest.raises(SettingError, match="the model 'flash' is in the plug-ins odd and zoo"):
        flashir.model("flash")


def test_a_backend_has_the_name_of_its_entry_point(install: Install) -> None:
    install("odd", "from flashir_onnx import OnnxBackend as Backend", backends="odd:Backend")
    with pytest.raises(TargetError, match="the entry point of the plug-in 'odd' names a backend 'onnx'"):
        backend("odd")
    with pytest.raises(TargetError, match=r"unknown target 'odd:cpu'(.|\n)*names a backend 'onnx'"):
        target("odd:cpu")
    assert backend("onnx").name == "onnx"


def test_a_malformed_record_is_named_with_its_file_and_the_other_targets_are_listed(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = install("boards", RECORDS, targets="boards:TARGETS") / "records"
    folder.mkdir()
    (path,) = record_files()["onnx:cpu"]
    (folder / "onnx-board.toml").write_text(re.sub(r"(?m)^name = .*$", 'name = "onnx:bored"', path.read_text()))
    forget()
    monkeypatch.setattr(Presence, "of", lambda backend: Presence(backend, installed=False))
    shown = Cli()("targets")
    assert "onnx:cpu" in shown.stdout and "onnx:board is left out" in shown.stderr
    assert str(folder / "onnx-board.toml") in "".join(shown.stderr.split("\n"))
    state, detail = findings()["targets of boards"]
    assert state is State.BROKEN and str(folder) in detail


@pytest.mark.parametrize("group", ["backends", "frontends", "importers", "targets"])
@pytest.mark.parametrize("code", ["raise SystemExit(3)", "def X(): raise SystemExit(3)"])
def test_a_plug_in_that_exits_ends_nothing_else(install: Install, group: str, code: str) -> None:
    install("quits", code, **{group: "quits:X"})
    assert flashir.model("flash", size="tiny").name == "flash" and "onnx:cpu" in target_names()
    assert {"artefact", "hub", "onnx"} <= {*file_importers()} and backend("onnx").name == "onnx"
    errors = working(f"flashir.{group}", lambda name: start(f"flashir.{group}", name))[1]
    assert "SystemExit: 3" in str(errors["quits"])


def test_doctor_lists_the_models_and_importers_of_plug_ins(install: Install) -> None:
    install("odd", MODELS.format("{'strange': 'a model'}", "None"), frontends="odd:Models")
    install("other", FORMAT.format("None"), importers="other:Format")
    parts = findings()
    assert parts["models of odd"] == (State.OK, "strange") and "other" in parts["importers"][1].split(", ")
