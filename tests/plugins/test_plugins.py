"""Ops, backends, target records and models from elsewhere: found when needed, and one that fails harms no other."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import flashir
from flashir.backends.registry import backend, backend_names
from flashir.cli.doctor import State, examine_plugins
from flashir.cli.machine import Presence
from flashir.errors import FlashirError, SettingError, TargetError
from flashir.machine.targets import record_files, target, target_names
from flashir.ops import OPS, all_ops
from tests.plugins.support import Install, forget, install

__all__ = ["install"]

CUBE = """
import numpy as np
from flashir.ops import OpDef, define_op, sample
from flashir.ir.cost import elementwise
from flashir.ir.op import choice, same_type
from flashir.ir.choices import Choice

def cube(name, **more):
    define_op(OpDef(name, ("x",), same_type, lambda x, **_: x**3, elementwise(2), (sample("f32[3]"),),
                    **{"decompose": lambda b, x, **_: b.mul(x, b.mul(x, x)), **more}))

"""
BOARDS = "from pathlib import Path\nTARGETS = Path(__file__).parent / 'records'"
MODEL = "model @m(%x: f32[T]) {{ %y = {}(%x) return %y }}"


def test_a_text_may_name_the_ops_of_a_plug_in(install: Install) -> None:
    install("cubes", CUBE + "cube('cube')")
    assert "cube" not in OPS
    graph = flashir.loads(MODEL.format("cube"))
    assert np.allclose(flashir.interpret(graph, {}, [2.0]), 8)
    assert flashir.loads(flashir.dumps(graph)) == graph
    run = flashir.compile(graph, target="onnx:cpu", params={})
    assert np.allclose(run(np.array([1.0, 2.0], np.float32)), [1, 8])


def test_a_builder_and_a_list_of_all_ops_have_those_of_plug_ins(install: Install) -> None:
    install("cubes", CUBE + "cube('cube')")
    assert "cube" in {op.name for op in all_ops()}
    b = flashir.Builder("m")
    assert b.finish(b.cube(b.input("x", "f32[3]"))).nodes[0].op == "cube"


def test_a_plug_in_is_loaded_once_and_not_before_it_is_needed(
    install: Install, capfd: pytest.CaptureFixture[str]
) -> None:
    install("loud", CUBE + "print('loaded'); cube('cube')")
    flashir.plan(flashir.model("flash", size="tiny"), measured=False)
    assert "loaded" not in capfd.readouterr().out
    for _ in range(2):
        flashir.loads(MODEL.format("cube"))
        all_ops()
        with pytest.raises(FlashirError, match="unknown op 'cubs'; did you mean 'cube'"):
            flashir.loads(MODEL.format("cubs"))
    assert capfd.readouterr().out.count("loaded") == 1


WRONG = {
    "cube('cube'); cube('relu')": "the op 'relu' is defined twice",
    "cube('cube', decompose=None)": "the primitive 'cube' does not say its axes",
    "cube('cube', attrs={'way': choice('a', default=None, choice=Choice((), 'way {}'))})": (
        "the choice 'way' of the op 'cube' has no candidate"
    ),
    "cube('cube'); 1 / 0": "at the op 'cube': ZeroDivisionError: division by zero",
    "cube('cube'); import nothing_of_the_name": "ModuleNotFoundError: No module named 'nothing_of_the_name'",
    "cube('cube'); raise SystemExit(3)": "SystemExit: 3",
}


@pytest.mark.parametrize(("code", "told"), WRONG.items())
def test_a_plug_in_that_fails_is_named_with_its_op_and_harms_no_other(install: Install, code: str, told: str) -> None:
    install("bad", CUBE + code)
    install("good", CUBE + "cube('other_cube')")
    assert np.allclose(flashir.interpret(flashir.loads(MODEL.format("other_cube")), {}, [2.0]), 8)
    assert np.allclose(flashir.interpret(flashir.loads(MODEL.format("relu")), {}, [-2.0]), 0)
    with pytest.raises(FlashirError, match=re.escape("the plug-in 'bad' of flashir.ops (bad) does not load")) as caught:
        flashir.loads(MODEL.format("cube"))
    assert len(caught.value.problems) == 1 and told in str(caught.value)
    assert "cube" not in OPS
    broken = {finding.part: finding for finding in examine_plugins() if finding.state is State.BROKEN}
    assert list(broken) == ["ops of bad"] and told in broken["ops of bad"].detail


def test_an_unknown_op_is_told_with_the_plug_ins_that_failed(install: Install) -> None:
    install("bad", "1 / 0")
    with pytest.raises(SettingError) as caught:
        flashir.Builder("m").insert("cube", ())
    assert caught.value.problems[0].startswith("unknown op 'cube'") and "'bad'" in caught.value.problems[1]


def test_a_plug_in_may_look_up_ops_while_it_loads(install: Install) -> None:
    install("eager", CUBE + "from flashir.ops import opdef\ncube('cube'); opdef('relu'); opdef('cube')")
    assert flashir.loads(MODEL.format("cube")).nodes[0].op == "cube"


def _record(name: str) -> str:
    (path,) = record_files()["onnx:cpu"]
    return re.sub(r"(?m)^name = .*$", f'name = "{name}"', path.read_text())


def test_a_plug_in_brings_target_records(install: Install, tmp_path: Path) -> None:
    text = _record("onnx:board")
    folder = install("boards", BOARDS, targets="boards:TARGETS")
    (folder / "records").mkdir()
    (folder / "records" / "onnx-board.toml").write_text(text)
    forget()
    assert "onnx:board" in target_names() and target("onnx:board").name == "onnx:board"
    found = flashir.plan(flashir.model("flash", size="tiny"), target="onnx:board", measured=False)
    assert found.predicted_ms > 0


def test_a_record_that_two_plug_ins_bring_is_refused_where_it_is_asked_for(install: Install) -> None:
    text = _record("onnx:cpu")
    folder = install("boards", BOARDS, targets="boards:TARGETS")
    (folder / "records").mkdir()
    (folder / "records" / "onnx-cpu.toml").write_text(text)
    forget()
    assert target("torch:h200").name == "torch:h200"
    with pytest.raises(TargetError, match="the record of onnx:cpu is in"):
        target("onnx:cpu")


@pytest.mark.parametrize("code", ["TARGETS = 3", "1 / 0", "TARGETS = 'nowhere'"])
def test_a_plug_in_whose_records_cannot_be_found_harms_no_other(install: Install, code: str) -> None:
    install("boards", code, targets="boards:TARGETS")
    assert target("torch:h200").name == "torch:h200"
    (finding,) = (each for each in examine_plugins() if each.state is State.BROKEN)
    assert finding.part == "targets of boards" and "'boards'" in finding.detail


def test_a_backend_that_fails_harms_no_other(install: Install) -> None:
    install("broken", "1 / 0", backends="broken:Backend")
    assert "broken" in backend_names() and "onnx:cpu" in target_names()
    with pytest.raises(TargetError, match="the plug-in 'broken' does not load: ZeroDivisionError"):
        backend("broken")
    assert Presence.of("broken").problem.startswith("the plug-in 'broken' does not load")


def test_a_backend_from_elsewhere_brings_records_and_its_file(install: Install) -> None:
    text = _record("twin:cpu")
    code = """
from pathlib import Path
from typing import ClassVar
from flashir_onnx import OnnxBackend

class Twin(OnnxBackend):
    name: ClassVar[str] = "twin"
    records = Path(__file__).parent / "twin_records"
    main_file: ClassVar[str] = "model.twin"
"""
    folder = install("twin", code, backends="twin:Twin")
    (folder / "twin_records").mkdir()
    (folder / "twin_records" / "twin-cpu.toml").write_text(text)
    forget()
    from flashir.cli.source import artefact_files

    assert "twin:cpu" in target_names() and "model.twin" in artefact_files()
    run = flashir.compile(flashir.loads(MODEL.format("relu")), target="twin:cpu", params={})
    assert np.allclose(run(np.array([-1.0, 2.0], np.float32)), [0, 2])


FAULTY = """
from flashir_onnx import OnnxBackend

def fails(*_):
    raise ValueError("oh")

class Faulty(OnnxBackend):
    name = "faulty"
    {}
"""
ZOO = """
class Faulty:
    name = "faulty"
    def models(self):
        return {"odd": "a model"}
    def build(self, model, settings):
        return {}["nothing"]
"""


@pytest.mark.parametrize(
    ("member", "said"),
    [
        ("def versions(self): return {}['torch']", "KeyError: 'torch'"),
        ("def devices(self): raise ValueError('no such driver')", "ValueError: no such driver"),
        (
            "def claims(self): return True",
            r"TypeError: Faulty\.claims\(\) takes 1 positional argument but 2 were given",
        ),
        ("def compile(self, graph): return None", r"TypeError: Faulty\.compile\(\) takes 2 positional"),
        ("def compile(self, *_): return fails", "ValueError: oh"),
        ("def on(self, device): raise RuntimeError", "RuntimeError"),
    ],
)
def test_a_backend_that_raises_is_named_wherever_it_is_used(install: Install, member: str, said: str) -> None:
    folder = install("faulty", FAULTY.format(member), backends="faulty:Faulty", targets="faulty:TARGETS")
    (folder / "faulty.py").write_text((folder / "faulty.py").read_text() + "\n" + BOARDS)
    (folder / "records").mkdir()
    (folder / "records" / "faulty-cpu.toml").write_text(_record("faulty:cpu"))
    forget()
    graph = flashir.loads(MODEL.format("relu"))

    def used() -> None:
        flashir.compile(graph, target="faulty:cpu", params={})(np.ones(2, np.float32))
        flashir.tune(graph, target="faulty:cpu", seq_len=8)  # asks for versions

    with pytest.raises(TargetError, match=rf"the plug-in 'faulty' \(faulty:Faulty\) failed: {said}"):
        used()


@pytest.mark.parametrize("text", ["import nothing_of_the_name", "raise RuntimeError('broken')", "class Faulty: pass"])
def test_a_frontend_that_does_not_load_leaves_the_models_of_the_others(install: Install, text: str) -> None:
    install("faulty", text, frontends="faulty:Faulty")
    assert flashir.model("flash", size="tiny").name == "flash"
    with pytest.raises(SettingError, match="unknown model 'flush'; did you mean 'flash'") as caught:
        flashir.model("flush")
    assert "faulty" in str(caught.value) and "pip install" not in str(caught.value)
    (found,) = (finding for finding in examine_plugins() if finding.part == "models of faulty")
    assert found.state is State.BROKEN


def test_models_and_ops_that_raise_are_named(install: Install) -> None:
    install("faulty", ZOO, frontends="faulty:Faulty")
    with pytest.raises(TargetError, match=r"the plug-in 'faulty' \(faulty:Faulty\) failed: KeyError: 'nothing'"):
        flashir.model("odd")
    forget()
    install("cubes", CUBE + "cube('cube', decompose=lambda b, x: x.nothing)")
    graph = flashir.loads(MODEL.format("cube"))
    with pytest.raises(TargetError, match=r"the plug-in 'cubes' \(cubes\) failed: AttributeError: .*'nothing'"):
        flashir.compile(graph, params={})


def test_the_command_line_blames_no_one_else(install: Install) -> None:
    from tests.cli.conftest import Cli

    install("faulty", ZOO, frontends="faulty:Faulty")
    said = Cli().fails("show", "odd")
    assert "the plug-in 'faulty'" in said and "bug in flashir" not in said


def test_a_fault_of_flashir_itself_stays_one(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("faulty", ZOO, frontends="faulty:Faulty")
    monkeypatch.setattr("flashir.reference.interpreter.bind_sizes", lambda *_: {}["mine"])
    with pytest.raises(KeyError, match="mine"):
        flashir.interpret(flashir.loads(MODEL.format("relu")), {}, [2.0])


TOY = """
import flashir
from flashir.importing.converted import Converted

class Toy:
    name, reads = "toy", "a toy file"
    def read(self, path, verify):
        if path.suffix != ".toy":
            return None
        model = flashir.model("flash", size="tiny", chunk=int(path.read_text()))
        return Converted(model, flashir.init(model), self.name, "toy model")
"""


def test_a_file_format_of_a_plug_in_is_imported(install: Install, tmp_path: Path) -> None:
    install("toy", TOY, importers="toy:Toy")
    (tmp_path / "m.toy").write_text("16")
    converted = flashir.convert(tmp_path / "m.toy")
    assert (converted.family, converted.structure) == ("toy", "toy model") and "chunk = 16" in flashir.dumps(
        converted.model
    )
    (tmp_path / "m.tory").write_text("16")
    with pytest.raises(FlashirError, match=r"this is none of .*, a toy file"):
        flashir.convert(tmp_path / "m.tory")


def test_an_importer_that_follows_no_protocol_is_named(install: Install) -> None:
    install("toy", "class Toy: name = 'toy'", importers="toy:Toy")
    with pytest.raises(TargetError, match=r"the plug-in 'toy' \(toy:Toy\) does not follow Importer or FileImporter"):
        flashir.convert({}, family="toy")
