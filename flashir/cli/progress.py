"""Displays tuning on stderr: a live table on a terminal, a line per event elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from flashir.autotune.progress import Progress, candidate_name
from flashir.cli import console
from flashir.cli.forecast import LONG_S, duration
from flashir.cli.tables import Fitted
from flashir.ir.settings import Settings
from flashir.planning.candidates import Candidate

REFRESH_S = 0.1
BAR = 40


def progress() -> Progress:
    """A live display if stderr is a terminal, otherwise lines."""
    errors = console.err()
    return LiveProgress(errors) if errors.is_terminal else PlainProgress(errors)


class PlainProgress:
    """Prints a line for every candidate that is started, measured or skipped."""

    def __init__(self, to: Console | None = None) -> None:
        self._to = to or console.err()

    def started(self, total: int, seconds: float) -> None:
        """Print how many candidates will be measured, and for how long."""
        self._say(f"measuring up to {total} {'candidate' if total == 1 else 'candidates'}")
        self._say(_forecast(seconds))

    def measuring(self, candidate: Candidate, round: int) -> None:
        """Print that a candidate is started, in its first round."""
        if not round:
            predicted = console.milliseconds(candidate.predicted_ms)
            self._say(f"{candidate_name(candidate)}: compiling and checking, {predicted} predicted")

    def measured(self, candidate: Candidate, spread_ms: float) -> None:
        """Print the time of a candidate."""
        time, spread = console.milliseconds(candidate.ms), console.milliseconds(spread_ms)
        self._say(f"{candidate_name(candidate)}: {time} measured, spread {spread}")

    def skipped(self, candidate: Candidate, reason: str) -> None:
        """Print why a candidate is skipped."""
        self._say(f"{candidate_name(candidate)}: left out, {reason}")

    def finished(self) -> None:
        """Nothing."""

    def _say(self, line: str) -> None:
        self._to.print(line, soft_wrap=True)


@dataclass
class _Row:
    """A candidate in the table, and its state."""

    candidate: Candidate
    state: str = ""
    style: str = ""
    spread_ms: float | None = None


@dataclass
class LiveProgress:
    """A table of the candidates started so far, drawn between samples and removed at the end."""

    to: Console
    total: int = 0
    _rows: dict[str, _Row] = field(default_factory=dict)
    _seconds: float = 0.0
    _live: Live | None = None
    _drawn: float = 0.0

    def started(self, total: int, seconds: float) -> None:
        """Start to draw."""
        self.total, self._seconds = total, seconds
        self._live = Live(self._table(), console=self.to, auto_refresh=False, transient=True)
        self._live.start()

    def measuring(self, candidate: Candidate, round: int) -> None:
        """Show the round."""
        state = f"round {round}" if round else "compiling and checking"
        self._set(_Row(candidate, state, "bold"), now=not round)

    def measured(self, candidate: Candidate, spread_ms: float) -> None:
        """Show the time."""
        self._set(_Row(candidate, "measured", "green", spread_ms), now=True)

    def skipped(self, candidate: Candidate, reason: str) -> None:
        """Show why a candidate is skipped."""
        self._set(_Row(candidate, f"left out: {reason}", "yellow"), now=True)

    def finished(self) -> None:
        """Stop drawing and restore the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _set(self, row: _Row, *, now: bool) -> None:
        self._rows[candidate_name(row.candidate)] = row
        if self._live is not None and (now or monotonic() - self._drawn >= REFRESH_S):
            self._drawn = monotonic()
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Group:
        table = Fitted(box=None, padding=(0, 2, 0, 0), header_style="bold")
        settings = next((row.candidate.settings for row in self._rows.values()), Settings())
        words = [name for name, value in settings.items() if isinstance(value, str)]
        for name in (*settings, "predicted", "measured", "spread", "state"):
            is_number = name not in (*words, "state")
            table.add_column(name, justify="right" if is_number else "left")
        for row in self._rows.values():
            candidate, measured = row.candidate, row.candidate.measured_ms
            table.add_row(
                *(str(candidate.settings[name]) for name in settings),
                console.milliseconds(candidate.predicted_ms),
                "" if measured is None else console.milliseconds(measured),
                "" if row.spread_ms is None else console.milliseconds(row.spread_ms),
                Text(row.state),
                style=row.style,
            )
        done = sum(row.state == "measured" for row in self._rows.values())
        bar = ProgressBar(total=max(self.total, done, 1), completed=done, width=BAR)
        state = f"{done} of about {self.total} measured; measurements are kept"
        return Group(table, bar, Text(state if done else _forecast(self._seconds), style="dim"))


def _forecast(seconds: float) -> str:
    """How long the candidates will be timed at most, before one is measured."""
    advice = "; a --budget, a shorter --seq-len or a smaller --size shortens it" if seconds >= LONG_S else ""
    return f"timed for {duration(seconds)} at most by the cost model, and each is compiled and checked before{advice}"
