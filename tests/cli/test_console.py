"""How the command line speaks: nothing that it repeats controls a terminal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flashir.cli import console
from tests.cli.conftest import TINY, Cli

EVIL = "\x1b[31mred\x1b]0;title\x07\x9b2Jend"
SHOWN = "\ufffd[31mred\ufffd]0;title\ufffd\ufffd2Jend"


def _table() -> None:
    table = console.table("number", EVIL, "c")
    table.add_row("a", EVIL, "c")
    console.show(table, console.facts({"name": EVIL}))


@pytest.mark.parametrize(
    ("speak", "times"), [(lambda: console.say(EVIL), 1), (lambda: console.note(EVIL), 1), (_table, 3)]
)
@pytest.mark.parametrize("terminal", [True, False])
def test_what_would_control_a_terminal_is_not_written(
    speak: Callable[[], None],
    times: int,
    terminal: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", str(int(terminal)))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    speak()
    said = "".join(capsys.readouterr())
    assert said.count(SHOWN) == times
    assert not set(said) & {"\x1b", "\x07", "\x9b"}


def test_columns_stay_straight(capsys: pytest.CaptureFixture[str]) -> None:
    table = console.table("number", "value")
    for cell in (EVIL, "plain"):
        table.add_row(cell, "here")
    console.show(table)
    assert len({line.index("here") for line in capsys.readouterr().out.splitlines()[1:]}) == 1


def test_an_error_that_repeats_what_was_typed_is_clean(cli: Cli) -> None:
    assert "\x1b" not in cli.fails("plan", *TINY, "--target", EVIL)
    assert "\x1b" not in cli.fails("plan", f"./{EVIL}.fir")
