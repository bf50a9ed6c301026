"""How the command line speaks: results on stdout, everything else on stderr; plain text where it is piped."""

from __future__ import annotations

import json
import math
import shutil
import sys
from typing import Any

from rich.console import Console, ConsoleDimensions
from rich.table import Table
from rich.text import Text

from flashir.cli import tables
from flashir.cli.streams import can_spell
from flashir.errors import counted as counted
from flashir.reference.finite import check_numbers

PIPE_WIDTH = 100_000
"""Columns of a pipe: nothing is cut or wrapped for a program that reads it."""


def out() -> Console:
    """Standard output as it is now: a terminal with colours, or a pipe without."""
    return _console(stderr=False)


def err() -> Console:
    """Standard error as it is now."""
    return _console(stderr=True)


def say(text: str = "", style: str | None = None) -> None:
    """A line of the result."""
    _print(out(), text, style)


def echo(text: str) -> None:
    """A part of the result, as it is: text that programs read, such as IR."""
    sys.stdout.write(text)


def stream(text: str) -> None:
    """A piece of a result that comes bit by bit. What would control a terminal is not written to one."""
    shown = text.translate(tables.CONTROLS) if sys.stdout.isatty() else text
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(shown.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def note(text: str, style: str | None = None) -> None:
    """A line about the result, on stderr."""
    _print(err(), text, style)


def warn(word: str, text: str, style: str) -> None:
    """A text on stderr behind a word in colour, such as `error:`."""
    _print(err(), f"{word} {text}", style, len(word))


def emit(value: Any) -> None:
    """The one JSON value of a verb with `--json`. Raises ResultError where a number in it is not finite."""
    check_numbers(value)
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if not can_spell(sys.stdout, text):
        text = json.dumps(value, indent=2, allow_nan=False)
    sys.stdout.write(f"{text}\n")


def answer(value: dict[str, Any], as_json: bool) -> bool:
    """What a verb found, before anything of it is shown: printed with `--json`. Returns whether it was.

    Raises:
        ResultError: a number in it is not finite; nothing is printed then.
    """
    check_numbers(value)
    if as_json:
        emit(value)
    return as_json


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table: ruled on a terminal, bare in a pipe. `right` names the columns of numbers."""
    return tables.table(*columns, right=right, terminal=out().is_terminal)


def facts(pairs: dict[str, str]) -> Table:
    """Names and what they are, in two columns."""
    made = tables.pairs()
    for name, value in pairs.items():
        made.add_row(name, value)
    return made


def show(*what: Any, width: int | None = None) -> None:
    """Tables, or anything else that rich can draw, one below the other; not wider than `width`."""
    console = out()
    console.width = min(console.width, width or console.width)
    if console.is_terminal:
        console.print(*what, sep="\n")
        return
    with console.capture() as capture:
        console.print(*what, sep="\n")
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def milliseconds(value: float) -> str:
    """A time for people: `0.042 ms`, `3.17 ms`, `2.41 s`."""
    if value >= 1e4:
        return f"{value / 1e3:,.1f} s"
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def size(count: float) -> str:
    """Bytes for people: `812 B`, `3.4 MiB`, `1.21 GiB`."""
    if count < 1024:
        return f"{count:.0f} B"
    power = min(int(math.log(count, 1024)), 5)
    return f"{count / 1024**power:.3g} {'KMGTP'[power - 1]}iB"


def large(number: float | None, digits: int = 4) -> str:
    """A number for people that may be larger than a float can be, as a perplexity."""
    return "more than 1e+308" if number is None or number == math.inf else f"{number:,.{digits}g}"


def many(count: float) -> str:
    """A count for people: `496M`, `1.2k`."""
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g}{letter}"
    return f"{count:.0f}"


class _Clean(Console):
    """A console to which strings are text: what would control a terminal is shown as such, in cells of tables, too."""

    def render_str(self, text: str, **how: Any) -> Text:
        """The string as rich draws it."""
        return super().render_str(text.translate(tables.CONTROLS), **how)


def _print(to: Console, text: str, style: str | None = None, styled: int | None = None) -> None:
    """A text, on a terminal broken at spaces; only its first characters may be `styled`."""
    text = text.translate(tables.CONTROLS)
    shown = Text("\n".join(tables.broken(text, to.width)) if to.is_terminal else text)
    shown.stylize(style or "", 0, styled)
    to.print(shown, soft_wrap=True)


def _console(*, stderr: bool) -> Console:
    made = _Clean(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = PIPE_WIDTH
    elif made.is_dumb_terminal:  # rich takes any such for one of 80 columns
        made.size = ConsoleDimensions(*shutil.get_terminal_size())
    return made
