"""Output of the command line: results on stdout, everything else on stderr, and plain text in pipes."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console, ConsoleDimensions
from rich.table import Table
from rich.text import Text

from flashir.cli import tables
from flashir.cli.streams import can_spell
from flashir.errors import counted as counted
from flashir.reference.finite import check_numbers

PIPE_WIDTH = 100_000
"""The width of a pipe: its lines are neither cut nor wrapped."""


def out() -> Console:
    """The console of the current standard output; a pipe has no colours."""
    return _console(stderr=False)


def err() -> Console:
    """The console of the current standard error."""
    return _console(stderr=True)


def say(text: str = "", style: str | None = None) -> None:
    """Print a line of the result."""
    _print(out(), text, style)


def echo(text: str) -> None:
    """Print a part of the result without changes, such as IR text that programs read."""
    sys.stdout.write(text)


def stream(text: str) -> None:
    """Print a piece of a result that arrives in pieces. A terminal gets no control characters."""
    shown = text.translate(tables.CONTROLS) if sys.stdout.isatty() else text
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(shown.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def note(text: str, style: str | None = None) -> None:
    """Print a note on stderr."""
    _print(err(), text, style)


def warn(word: str, text: str, style: str) -> None:
    """Print a text on stderr after a coloured word, such as `error:`."""
    _print(err(), f"{word} {text}", style, len(word))


SCHEMA = 1
"""The version of the JSON of the verbs. `flashir.cli.results` has the types."""


def emit(value: Mapping[str, Any] | list[Any]) -> None:
    """Print the JSON value of a verb with `--json`: an object, or a list of objects, each with its `schema`.

    Raises ResultError if a number is not finite.
    """
    check_numbers(value)
    value = [_versioned(item) for item in value] if isinstance(value, list) else _versioned(value)
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if not can_spell(sys.stdout, text):
        text = json.dumps(value, indent=2, allow_nan=False)
    sys.stdout.write(f"{text}\n")


def _versioned(value: Mapping[str, Any]) -> dict[str, Any]:
    return {"schema": SCHEMA, **value}


def answer(value: Mapping[str, Any], as_json: bool) -> bool:
    """Check the result of a verb, and print it if `as_json` is set. Returns `as_json`.

    Raises:
        ResultError: a number is not finite. Nothing is printed then.
    """
    check_numbers(value)
    if as_json:
        emit(value)
    return as_json


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table, with rules on a terminal. The columns in `right` are right-aligned."""
    return tables.table(*columns, right=right, terminal=out().is_terminal)


def facts(pairs: dict[str, str]) -> Table:
    """A table of names and values."""
    table = tables.pairs()
    for name, value in pairs.items():
        table.add_row(name, value)
    return table


def show(*parts: Any, width: int | None = None) -> None:
    """Print tables, or other renderables of rich, one below the other and at most `width` wide."""
    console = out()
    console.width = min(console.width, width or console.width)
    if console.is_terminal:
        console.print(*parts, sep="\n")
        return
    with console.capture() as capture:
        console.print(*parts, sep="\n")
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def milliseconds(value: float) -> str:
    """Format a time: `0.042 ms`, `3.17 ms`, `2.41 s`."""
    if value >= 1e4:
        return f"{value / 1e3:,.1f} s"
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def size(count: float) -> str:
    """Format bytes: `812 B`, `3.4 MiB`, `1.21 GiB`."""
    if count < 1024:
        return f"{count:.0f} B"
    power = min(int(math.log(count, 1024)), 5)
    return f"{count / 1024**power:.3g} {'KMGTP'[power - 1]}iB"


def large(number: float | None, digits: int = 4) -> str:
    """Format a number that may exceed the range of floats, such as a perplexity."""
    return "more than 1e+308" if number is None or number == math.inf else f"{number:,.{digits}g}"


def many(count: float) -> str:
    """Format a count: `496M`, `1.2k`."""
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g}{letter}"
    return f"{count:.0f}"


class _Clean(Console):
    """A console that replaces control characters in strings, also in cells of tables."""

    def render_str(self, text: str, **how: Any) -> Text:
        """The string without control characters."""
        return super().render_str(text.translate(tables.CONTROLS), **how)


def _print(to: Console, text: str, style: str | None = None, styled: int | None = None) -> None:
    """Print a text, wrapped on a terminal. The style applies to the first `styled` characters."""
    text = text.translate(tables.CONTROLS)
    shown = Text("\n".join(tables.broken(text, to.width)) if to.is_terminal else text)
    shown.stylize(style or "", 0, styled)
    to.print(shown, soft_wrap=True)


def _console(*, stderr: bool) -> Console:
    console = _Clean(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    elif console.is_dumb_terminal:  # rich assumes 80 columns
        console.size = ConsoleDimensions(*shutil.get_terminal_size())
    return console
