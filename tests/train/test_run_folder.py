"""The folder of a run: a curve with each step once, the newest checkpoints, one process at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

import flashir
from flashir.errors import ArtefactError, InputError
from flashir.models.checkpoint import step_of
from flashir.train.metrics import Clock, Curve, Line, perplexity
from flashir.train.recipe import Recipe
from flashir.train.run_folder import RunFolder, create
from tests.train.test_checkpoint import MODEL, PARAMS, state


def line(step: int) -> Line:
    return Line(step, 10 * step, 1 / 3, 1e-4, 0.1, Clock(0.5, 0.0))


@pytest.fixture
def curve(tmp_path: Path) -> Curve:
    made = Curve(tmp_path / "metrics.jsonl")
    for step in range(1, 6):
        made.append(line(step))
    return made


def test_lines_come_back_bit_for_bit(curve: Curve) -> None:
    assert list(curve.lines()) == [line(step) for step in range(1, 6)]
    assert "validation_loss" not in curve.path.read_text()


def test_what_came_after_a_checkpoint_is_cut_and_a_stump_with_it(curve: Curve) -> None:
    with curve.path.open("ab") as file:
        file.write(b'{"step": 6, "lo')
    assert [each.step for each in curve.lines()] == [1, 2, 3, 4, 5]
    curve.cut(3)
    assert [each.step for each in curve.lines()] == [1, 2, 3]
    with pytest.raises(ArtefactError, match="only 3 of 4 steps"):
        curve.cut(4)
    curve.cut(0)
    assert list(curve.lines()) == []


def test_a_damaged_line_is_named(curve: Curve) -> None:
    curve.path.write_bytes(curve.path.read_bytes().replace(b'"step":2', b'"step":"2"'))
    with pytest.raises(ArtefactError, match="line 2 is damaged"):
        list(curve.lines())


def test_perplexity_is_never_an_error() -> None:
    assert perplexity(0.0) == 1.0 and perplexity(1e9) == float("inf")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "t.json").write_text("{}")
    create(tmp_path / "run", Recipe(), tmp_path / "t.json", MODEL, PARAMS, state())
    return RunFolder(tmp_path / "run")


def test_a_new_run_can_be_resumed_at_once(run: RunFolder) -> None:
    assert run.recipe == Recipe() and run.newest().name == "step-000000"
    assert flashir.load_checkpoint(run.newest()).tokenizer is not None
    assert run.tokenizer.read_text() == "{}"


def test_the_newest_checkpoints_are_kept(run: RunFolder) -> None:
    for step in (5, 1_000_000, 20):
        run.save(step, MODEL, PARAMS, state(), keep=2)
    assert [step_of(each) for each in run.checkpoints()] == [20, 1_000_000]


def test_a_run_is_not_overwritten(run: RunFolder) -> None:
    with pytest.raises(ArtefactError, match="already exists\n`opened` resumes"):
        create(run.path, Recipe(), run.tokenizer, MODEL, PARAMS, state())


def test_one_process_at_a_time_and_what_a_killed_one_left_is_gone(run: RunFolder) -> None:
    left = run.newest().parent / ".step-000004.1234.unfinished"
    left.mkdir()
    with run.held():
        assert not left.exists()
        with pytest.raises(ArtefactError, match="another process is writing here"), run.held():
            pass


def test_a_folder_without_checkpoints_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint to resume from\nrestore one"):
        RunFolder(tmp_path).newest()
