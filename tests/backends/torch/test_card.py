"""The measurements of a GPU: stages, their budget and files, and all of them rehearsed on the processor."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashir.bench.record import read_record
from flashir.errors import ArtefactError, TargetError
from flashir_torch.experiments.card import curves, exactness, products, setting
from flashir_torch.experiments.card.__main__ import main
from flashir_torch.experiments.card.calibration import fitted
from flashir_torch.experiments.card.curves import TOLERANCE, faults
from flashir_torch.experiments.card.run import in_process, run
from flashir_torch.experiments.card.setting import Setting, rehearsal
from flashir_torch.experiments.card.stage import Document, Stage, read
from flashir_torch.experiments.card.stages import STAGES

SETTING = rehearsal()


def counting(setting: Setting, known: Document) -> Iterator[Document]:
    """Three parts; those of an earlier run are not measured again."""
    parts = list(known.get("parts", []))
    while len(parts) < 3:
        parts = [*parts, len(parts)]
        yield {"parts": parts}


def stage(name: str, fault: str = "") -> Stage:
    return Stage(
        name, 10, counting, lambda found: iter([str(found["parts"])]), lambda _: iter([fault] if fault else [])
    )


def here(each: Stage, setting: Setting, out: Path, seconds: float) -> str:
    each.perform(setting, out)
    return ""


def test_stages_run_in_order_and_are_read_back(tmp_path: Path) -> None:
    lines: list[str] = []
    assert run([stage("one"), stage("two")], SETTING, tmp_path, 100, here, lines.append) == []
    assert lines == ["one", "  [0, 1, 2]", "two", "  [0, 1, 2]"]
    lines.clear()
    assert run([stage("one"), stage("two")], SETTING, tmp_path, 0, pytest.fail, lines.append) == []
    assert lines == ["one: read back", "  [0, 1, 2]", "two: read back", "  [0, 1, 2]"]


def test_what_a_stage_kept_before_its_deadline_is_not_measured_again(tmp_path: Path) -> None:
    asked: list[Document] = []

    def endless(setting: Setting, known: Document) -> Iterator[Document]:
        asked.append(known)
        for document in counting(setting, known):
            yield document
            if len(asked) == 1:
                raise TimeoutError

    each = Stage("one", 10, endless, lambda found: iter([str(found["parts"])]))
    with pytest.raises(TimeoutError):
        each.perform(SETTING, tmp_path)
    assert each.kept(SETTING, tmp_path)["parts"] == [0] and not each.kept(SETTING, tmp_path)["complete"]
    assert run([each], SETTING, tmp_path, 100, here, lambda _: None) == []
    assert asked[1]["parts"] == [0] and each.kept(SETTING, tmp_path)["parts"] == [0, 1, 2]


def test_without_time_stages_are_named_and_none_begins(tmp_path: Path) -> None:
    found = run([stage("one"), stage("two")], SETTING, tmp_path, 0, pytest.fail, lambda _: None)
    assert found == ["one: no time is left", "two: no time is left"]


def test_wrong_results_and_a_lost_process_are_told_and_end_nothing(tmp_path: Path) -> None:
    def lost(each: Stage, setting: Setting, out: Path, seconds: float) -> str:
        return "CUDA error: an illegal memory access" if each.name == "one" else here(each, setting, out, seconds)

    found = run([stage("one"), stage("two", "pre is off")], SETTING, tmp_path, 100, lost, lambda _: None)
    assert found == ["one: CUDA error: an illegal memory access", "two: pre is off"]


def test_a_folder_of_another_run_is_refused_before_anything_begins(tmp_path: Path) -> None:
    here(stage("two"), SETTING, tmp_path, 0)
    path = tmp_path / "two.json"
    path.write_text(path.read_text().replace("torch:h100", "torch:h200"))
    with pytest.raises(ArtefactError, match="damaged"):
        run([stage("one"), stage("two")], SETTING, tmp_path, 100, pytest.fail, lambda _: None)
    Stage("two", 1, counting, lambda _: iter(())).path(tmp_path).unlink()
    other = Setting(**{**vars(SETTING), "target": "torch:h200"})
    here(stage("two"), other, tmp_path, 0)
    with pytest.raises(ArtefactError, match=r"it is of .*h200.*, not of .*h100"):
        run([stage("one"), stage("two")], SETTING, tmp_path, 100, pytest.fail, lambda _: None)


@pytest.mark.parametrize("losses", [[2.0, 2.5], [2.0, float("nan")], [2.0, None]], ids=str)
def test_curves_that_differ_are_a_fault(losses: list[float]) -> None:
    """A file has null for what is not a number."""
    document = {"losses": {dtype: {"kernels": losses, "parts": [2.0, 2.0]} for dtype in TOLERANCE}}
    assert len(list(faults(document))) == len(list(curves.summary(document))) == len(TOLERANCE)


def test_an_error_that_is_not_a_number_is_a_fault() -> None:
    row = {"batch": 1, "length": 2, "chunk": 64, "dtype": "bfloat16", "errors": {"out": None}, "repeats": True}
    document = {"loss": {"errors": {"loss": None}}, "update": {"errors": {"norms": None}}, "cores": [row]}
    assert len(list(exactness.faults(document))) == 3 and len(list(exactness.summary(document))) == 3


def test_what_a_stage_has_so_far_is_told() -> None:
    """Its process may end at any time."""
    lines = [list(products.summary(document)) for document in products.measure(SETTING, {})]
    assert [len(each) for each in lines] == [0, 1, 4, 7, 10, 13]


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["card", "--out", str(tmp_path / "card")])
    monkeypatch.setattr(setting, "device_names", lambda: ("cpu", "cuda"))  # one without a record
    with pytest.raises(TargetError, match="no CUDA device") as raised:
        main()
    assert "--rehearse" in raised.value.hint and not (tmp_path / "card").exists()


@pytest.mark.slow
@pytest.mark.grid
def test_every_stage_is_rehearsed(tmp_path: Path) -> None:
    """As on a card but for the sizes, one process a stage."""
    lines: list[str] = []
    assert run(STAGES, SETTING, tmp_path, 600, in_process, lines.append) == []
    assert {path.stem for path in tmp_path.iterdir()} == {each.name for each in STAGES}
    record = read_record(tmp_path / "step.json")
    assert {(row.system, row.seq_len) for row in record.rows if row.times} == {
        (system, length) for system in ("flash", "transformer++") for length in SETTING.lengths
    }
    assert "peak.f32" in fitted(read(tmp_path / "calibration.json"))
    launched = json.loads((tmp_path / "kernels.json").read_text())
    assert not launched["failed"] and {"heads", "states", "attend"} <= {row["kernel"] for row in launched["kernels"]}
