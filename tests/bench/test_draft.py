"""The record of a run while it runs: when it is written, and what is left of it, however the run ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flashir.bench import draft as module
from flashir.bench.draft import Draft
from flashir.bench.record import Row, read_record
from flashir.errors import ArtefactError
from tests.bench.test_record import MEASURED, record

PLANNED = replace(MEASURED, samples_ms=())


def rows_in(made: Draft) -> tuple[bool, list[int]]:
    found = read_record(made.path)
    return found.complete, [len(row.samples_ms) for row in found.rows]


def sampled(count: int) -> Row:
    return replace(PLANNED, samples_ms=(1.0,) * count)


def test_it_is_on_disk_from_the_first_and_complete_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    made = Draft(record(), tmp_path)
    with made.recording([PLANNED]):
        assert rows_in(made) == (False, [0])
        made.follow([sampled(1)])
        assert rows_in(made) == (False, [0])  # it is too soon
        now += module.SECONDS
        made.follow([sampled(2)])
        assert rows_in(made) == (False, [2])
        made.follow([sampled(3)])
    assert rows_in(made) == (True, [3]) and made.record.complete


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ZeroDivisionError])
def test_whatever_ends_it_what_was_measured_is_kept(tmp_path: Path, error: type[BaseException]) -> None:
    made = Draft(record(), tmp_path)

    def run() -> None:
        with made.recording([PLANNED]):
            made.follow([sampled(1)])
            raise error

    with pytest.raises(error):
        run()
    assert rows_in(made) == (False, [1])


def test_where_nothing_was_measured_there_is_no_file(tmp_path: Path) -> None:
    made = Draft(record(), tmp_path)
    with pytest.raises(KeyboardInterrupt), made.recording([PLANNED]):
        raise KeyboardInterrupt
    assert not made.measured and not [*tmp_path.iterdir()]


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = Draft(record(), tmp_path / "file" / "folder")
    with pytest.raises(ArtefactError, match="cannot write"), made.recording([PLANNED]):
        pytest.fail("it went on")


def test_a_disk_that_is_full_for_a_while_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    made, folder = Draft(record(), tmp_path / "out"), tmp_path / "out"
    with made.recording([PLANNED]):
        made.path.unlink()
        folder.rmdir()
        folder.touch()
        made.follow([sampled(1)])
        assert made.lost is not None
        folder.unlink()
    assert made.lost is None and rows_in(made) == (True, [1])
