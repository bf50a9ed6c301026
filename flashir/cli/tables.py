"""Tables for narrow terminals: cells wrap at spaces, and if that is not enough, each row becomes a paragraph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

INDENT = 2
CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}
"""Control characters, and the character that is shown instead."""

LEAST = 8  # texts are wrapped to at least so many columns, because a terminal may report none
EMPTY = ("", "-")


class Fitted(Table):
    """A table that is at most as wide as the terminal.

    Numbers and single words stay whole; cells with spaces may wrap. If that is not enough, columns without a header
    that only hold rich texts, such as bars, are left out. If that is not enough either, each row becomes a paragraph.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the table."""
        if not self._fit(console, options):
            self.columns = [column for column in self.columns if not (self.show_header and _is_picture(column))]
            if not self._fit(console, options):
                yield from self._paragraphs(options.max_width)
                return
        yield from super().__rich_console__(console, options)

    def _fit(self, console: Console, options: ConsoleOptions) -> bool:
        """Set the widths of the columns. Returns whether they fit."""
        natural, least = list(map(_natural, self.columns)), list(map(_least, self.columns))
        wide = options.update(max_width=sum(natural) + 1000)
        room = options.max_width - (Measurement.get(console, wide, self).maximum - sum(natural))
        if sum(least) > room:
            return False
        for column, width in zip(self.columns, shares(natural, least, room), strict=True):
            column.width, column.overflow = width, "fold"
        return True

    def _paragraphs(self, width: int) -> Iterator[Text]:
        between = "; " if self.show_header else "  "
        for row, cells in zip(self.rows, zip(*(column.cells for column in self.columns), strict=True), strict=True):
            words = [
                f"{_plain(column.header)} {_plain(cell)}".strip()
                for column, cell in zip(self.columns, cells, strict=True)
                if _plain(cell) not in EMPTY
            ]
            yield Text("\n".join(broken(between.join(words), width, INDENT, whole=False)), row.style or "")


def table(*columns: str, right: Sequence[str] = (), terminal: bool) -> Table:
    """An empty table, with rules on a terminal. The columns in `right` are right-aligned."""
    empty = Fitted(
        box=SIMPLE_HEAD if terminal else None,
        header_style="bold",
        pad_edge=False,
        padding=(0, 1) if terminal else (0, 2),
        show_edge=False,
    )
    for name in columns:
        empty.add_column(name, justify="right" if name in right else "left")
    return empty


def pairs(style: str = "dim", least: int = 0) -> Table:
    """An empty table of names and values, without rules or a header."""
    empty = Fitted(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False, show_edge=False)
    empty.add_column(style=style, min_width=least or None)
    empty.add_column()
    return empty


def broken(text: str, width: int, indent: int = 0, *, whole: bool = True) -> list[str]:
    """Wrap a text at spaces.

    Args:
        text: the text. Its line breaks are kept.
        width: the width of a line, in columns.
        indent: the indent of every line but the first.
        whole: keep wider words, such as paths, whole.
    """
    return [
        part
        for line in text.split("\n")
        for part in wrap(
            line,
            max(width, LEAST),
            subsequent_indent=" " * indent,
            break_long_words=not whole,
            break_on_hyphens=False,
            replace_whitespace=False,
            drop_whitespace=True,
        )
        or [""]
    ]


def shares(natural: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Shrink the widths of columns, widest first, until they fit; none below its least width."""
    widths = list(natural)
    while sum(widths) > room:
        widest = max((width for width, low in zip(widths, least, strict=True) if width > low), default=0)
        if not widest:
            break
        number = next(i for i, (width, low) in enumerate(zip(widths, least, strict=True)) if width == widest > low)
        widths[number] -= 1
    return widths


def _is_picture(column: Column) -> bool:
    return not column.header and all(isinstance(cell, Text) for cell in column.cells)


def _natural(column: Column) -> int:
    return max((cell_len(line) for text in _texts(column) for line in text.splitlines()), default=0)


def _least(column: Column) -> int:
    """The width of the longest word. Numbers stay whole, because their unit follows a space."""
    if column.justify == "right":
        return _natural(column)
    words = (cell_len(word) for text in _texts(column) for word in text.split())
    return max(words, default=0)


def _texts(column: Column) -> Iterator[str]:
    yield _plain(column.header)
    yield from map(_plain, column.cells)
    yield " " * (column.min_width or 0)


def _plain(cell: Any) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell).translate(CONTROLS)
