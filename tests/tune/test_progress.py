"""Progress in a pipe is plain lines; on a terminal a table that is gone at the end."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from flashir.autotune.contest import Contest
from flashir.autotune.progress import Progress, Silent, candidate_name
from flashir.cli.progress import LiveProgress, PlainProgress, progress
from flashir.ir.settings import Settings
from tests.tune.support import GRID, FakeMeasurer, candidates, chosen

TIMES = dict.fromkeys(GRID, 10.0)


def tuned(progress: Progress) -> None:
    fake = FakeMeasurer({**TIMES, GRID[0]: 9.0}, broken=(GRID[13],))
    Contest(candidates({**TIMES, GRID[13]: 9.9}), fake, progress=progress).run()


def test_plain_lines() -> None:
    out = io.StringIO()
    tuned(PlainProgress(Console(file=out, width=10_000)))
    lines = out.getvalue().splitlines()
    assert lines[0] == "measuring up to 5 candidates"
    assert lines[1] == "timed for 1 s at most by the cost model, and each is compiled and checked before"
    assert "chunk 1024, matmul: left out, no memory for this" in lines
    assert "chunk 1024, scan: compiling and checking, 10 ms predicted" in lines
    assert "chunk 1024, scan: 10 ms measured, spread 0 ms" in lines
    assert not any("round" in line for line in lines)


def test_a_pipe_is_plain_and_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    made = progress()
    assert isinstance(made, PlainProgress)
    made.started(1, 4000.0)
    tuned(Silent())
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("measuring up to 1 candidate\ntimed for 1 h 07 min at most by the cost model")
    assert shown.err.endswith("; a --budget, a shorter --seq-len or a smaller --size shortens it\n")


def test_a_terminal_has_a_table_that_goes_away() -> None:
    out = io.StringIO()
    live = LiveProgress(Console(file=out, force_terminal=True, width=100, markup=False, highlight=False))
    tuned(live)
    text = out.getvalue()
    for word in (
        "predicted",
        "measured",
        "spread",
        "round 3",
        "left out: no memory for this",
        "compiling and checking",
    ):
        assert word in text
    assert text.endswith("\x1b[2K"), "the last thing done is to erase the table"
    live.finished()


def test_names_of_candidates() -> None:
    (one,) = candidates({chosen(64, "scan"): 1.0})
    assert candidate_name(one) == "chunk 64, scan"
    assert candidate_name(replace(one, settings=Settings())) == "the model"
    assert candidate_name(replace(one, settings=Settings(tile=16, cumsum="scan"))) == "tile 16, scan"


def test_a_terminal_shows_tiles_where_there_are_some() -> None:
    for tile, shown in ((None, False), (4096, True)):
        out = io.StringIO()
        live = LiveProgress(Console(file=out, force_terminal=True, width=100, markup=False, highlight=False))
        live.started(1, 0.5)
        settings = Settings({} if tile is None else {"tile": tile}, cumsum="scan")
        live.measuring(candidates({settings: 1.0})[0], 0)
        live.finished()
        assert ("tile" in out.getvalue()) == ("4096" in out.getvalue()) == shown
