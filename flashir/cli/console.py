"""How the command line speaks: results on stdout, everything else on stderr; plain text where it is piped."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 100_000
"""Columns of a pipe: nothing is cut or wrapped for a program that reads it."""

_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def out() -> Console:
    """Standard output as it is now: a terminal with colours, or a pipe without."""
    return _console(stderr=False)


def err() -> Console:
    """Standard error as it is now."""
    return _console(stderr=True)


def say(text: str = "", style: str | None = None) -> None:
    """A line of the result."""
    out().print(text, style=style, soft_wrap=True)


def stream(text: str) -> None:
    """A piece of a result that comes bit by bit. What would control a terminal is not written to one."""
    shown = text.translate(_CONTROLS) if sys.stdout.isatty() else text
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(shown.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def note(text: str, style: str | None = None) -> None:
    """A line about the result, on stderr."""
    err().print(text, style=style, soft_wrap=True)


def emit(value: Any) -> None:
    """The one JSON value of a verb with `--json`. What is not a finite number becomes null, as JSON has none."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table: ruled on a terminal, bare in a pipe. `right` names the columns of numbers."""
    terminal = out().is_terminal
    made = Table(
        box=SIMPLE_HEAD if terminal else None,
        header_style="bold",
        pad_edge=False,
        padding=(0, 2) if not terminal else (0, 1),
        show_edge=False,
    )
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", no_wrap=not terminal)
    return made


def facts(pairs: dict[str, str]) -> Table:
    """Names and what they are, in two columns."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
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


def many(count: float) -> str:
    """A count for people: `496M`, `1.2k`."""
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g}{letter}"
    return f"{count:.0f}"


def counted(count: int, one: str) -> str:
    """`1 row`, `4,096 rows`."""
    return f"{count:,} {one}" if count == 1 else f"{count:,} {one}s"


class _Clean(Console):
    """A console to which strings are text: what would control a terminal is shown as such, in cells of tables, too."""

    def render_str(self, text: str, **how: Any) -> Text:
        """The string as rich draws it."""
        return super().render_str(text.translate(_CONTROLS), **how)


def _console(*, stderr: bool) -> Console:
    made = _Clean(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = PIPE_WIDTH
    return made


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
