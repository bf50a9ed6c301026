"""On a terminal of any width no text is cut, and no word is broken that a line can hold."""

from __future__ import annotations

import re

import pytest
from rich.cells import cell_len
from rich.text import Text

from flashir.cli import console
from flashir.cli.results import FORMS
from flashir.cli.tables import broken, shares
from flashir.machine.targets import target_names
from tests.cli.conftest import TINY, Cli

WIDTHS = (200, 80, 60, 40, 20)
PROSE = "measured by `flashir calibrate` on 2 cores of an AMD EPYC (AVX-512), ONNX Runtime 1.32"


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


def narrow(shown: str, width: int) -> list[str]:
    """The words that were shown, once no line is too long."""
    assert "…" not in shown
    lines = [line.rstrip() for line in shown.splitlines()]
    assert max(cell_len(line) for line in lines) <= width, shown
    return re.sub(r"[;─]", " ", shown).split()


def test_a_table_shows_every_word(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    table = console.table("", "number", "value", "source", "", right=("value",))
    rows = [
        ("*", "peak.f32", "0.2 Tflop/s", PROSE, Text("████")),
        ("", "slowdown.cumsum", "2 x", "东京 assumed", Text("█")),
    ]
    for row in rows:
        table.add_row(*row, style="bold")
    console.show(table)
    words = narrow(capsys.readouterr().out, width)
    for row in rows:
        for cell in row[:4]:
            assert set(str(cell).split()) <= set(words)


def test_numbers_keep_their_unit_where_there_is_room(capsys: pytest.CaptureFixture[str]) -> None:
    table = console.table("name", "value", "source", right=("value",))
    table.add_row("bandwidth", "3,350 GB/s", PROSE)
    console.show(table)
    assert "3,350 GB/s" in capsys.readouterr().out


def test_facts_show_every_word(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    console.show(console.facts({"model": PROSE, "a long name": "b", "path": "x" * 50}))
    shown = capsys.readouterr().out
    narrow(shown, width)
    assert "x" * 50 in re.sub(r"\s", "", shown)
    assert set(PROSE.split()) <= set(shown.split())


def test_prose_is_broken_at_spaces_and_paths_are_left_whole(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    path = "/home/" + "x" * 300
    console.say(f"{PROSE}\n{path} is\n\n  indented")
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines).split() == [*PROSE.split(), path, "is", "indented"]
    assert all(cell_len(line) <= width or line == path for line in lines)
    assert "  indented" in lines


def test_in_a_pipe_nothing_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    console.say(PROSE * 200)
    assert capsys.readouterr().out == f"{PROSE * 200}\n"


@pytest.mark.parametrize("line", [("plan", *TINY, "--seq-len", 64), ("--help",), ("export", "--help"), ("targets",)])
def test_verbs_show_every_word(line: tuple[object, ...], width: int, cli: Cli) -> None:
    shown = cli.ok(*line)
    if line[0] == "plan":
        assert set(cli.json(*line)["why"].split()) <= set(narrow(shown, width))
    if line[0] == "targets":
        assert set(target_names()) <= set(narrow(shown, width))
    if line[0] == "--help":
        assert {"calibrate", "generate"} <= set(narrow(shown, width))


@pytest.mark.parametrize("line", [*((verb, "--help") for verb in FORMS), ("--help",), ("ops",), ("ops", "flash")])
def test_nothing_is_cut_at_80_columns(line: tuple[str, ...], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe shows all words whole."""
    words = narrow(cli.ok(*line), console.PIPE_WIDTH)
    for name, value in {"TTY_COMPATIBLE": "1", "TERM": "dumb", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    assert sorted(narrow(cli.ok(*line), 80)) == sorted(words)


def test_help_in_a_pipe_is_as_wide_as_columns_says(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 80 < max(map(len, cli.ok("export", "--help").splitlines())) <= 110
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, cli.ok("export", "--help").splitlines())) <= 80


def test_an_error_is_broken_at_spaces(width: int, cli: Cli) -> None:
    result = cli("plan", "flash", "-s", "dpth=3", "-s", "key_dim=wide")
    assert result.exit_code == 2
    assert "key_dim must be int" in " ".join(narrow(result.stderr, width))


def test_columns_shrink_the_widest_first_and_never_below_their_longest_word() -> None:
    assert shares([10, 40, 30], [10, 8, 8], 80) == [10, 40, 30]
    assert shares([10, 40, 30], [10, 8, 8], 60) == [10, 25, 25]
    assert shares([10, 40, 30], [10, 8, 25], 50) == [10, 15, 25]
    assert shares([10, 40], [10, 40], 20) == [10, 40]


def test_a_text_keeps_its_lines() -> None:
    assert broken("one two\n\nthree", 8) == ["one two", "", "three"]
    assert broken("one two three", 8, 2) == ["one two", "  three"]
    assert broken("0123456789", 8) == ["0123456789"]
    assert broken("0123456789", 8, whole=False) == ["01234567", "89"]
