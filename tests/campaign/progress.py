"""The progress of a campaign: an updated line on a terminal, and occasional lines in a pipe."""

from __future__ import annotations

import sys
import time

from tests.campaign.kinds import Kind
from tests.campaign.ledger import Ledger, replay
from tests.campaign.verdict import Reply

RENEWED = 0.5
PLAIN = 30.0
"""Seconds between two lines, on a terminal and in a pipe."""


class Progress:
    """Writes each new sign and the progress to standard error."""

    def __init__(self, ledger: Ledger, seconds: float | None) -> None:
        self.ledger = ledger
        self.started = time.monotonic()
        self.seconds = seconds
        self.terminal = sys.stderr.isatty()
        self._last = self.started
        self._before = self.cases
        self._known: set[tuple[str, str]] = set()

    @property
    def cases(self) -> int:
        """The number of cases, including those before --resume."""
        return sum(count.cases for count in self.ledger.counts.values())

    def saw(self, kind: Kind, number: int, reply: Reply) -> None:
        """Record a case, and print the first finding of each sign."""
        if reply.is_finding and (kind.name, reply.sign) not in self._known:
            self._known.add((kind.name, reply.sign))
            self._clear()
            print(f"FOUND {kind.name}: {reply.sign}\n  {reply.what[:300]}", file=sys.stderr)
            print(f"  {replay(f'{kind.name}:{self.ledger.seed}:{number}')}", file=sys.stderr, flush=True)

    def tick(self) -> None:
        """Update the line."""
        if time.monotonic() - self._last < (RENEWED if self.terminal else PLAIN):
            return
        self._last = time.monotonic()
        self._clear()
        end = "" if self.terminal else "\n"
        print(self._line()[: 110 if self.terminal else None], end=end, file=sys.stderr, flush=True)

    def done(self) -> None:
        """Clear the line."""
        self._clear()

    def _line(self) -> str:
        """`3:20 of 120:00, 1,204 cases, 2 findings; about 43,000 cases by the end; values 31, texts 1,000, ..`."""
        past = time.monotonic() - self.started
        clock = _clock(past) if self.seconds is None else f"{_clock(past)} of {_clock(self.seconds)}"
        forecast = ""
        if self.seconds is not None and past > 5:
            last = self._before + (self.cases - self._before) / past * max(self.seconds, past)
            forecast = f"; about {last:,.0f} cases by the end"
        found = sum(count.found for count in self.ledger.counts.values())
        kinds = ", ".join(f"{name} {count.cases:,}" for name, count in self.ledger.counts.items())
        return f"{clock}, {self.cases:,} cases, {found} findings{forecast}; {kinds}"

    def _clear(self) -> None:
        if self.terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


def summary(ledger: Ledger) -> str:
    """A table of the counts, then each sign with its count and a command to replay its first case."""
    lines = [f"{'kind':12} {'cases':>9} {'a minute':>9} {'findings':>9}  outcomes"]
    for name, count in ledger.counts.items():
        rate = 60 * count.cases / count.seconds if count.seconds else 0.0
        outcomes = ", ".join(f"{outcome} {n:,}" for outcome, n in sorted(count.outcomes.items()) if outcome != "found")
        lines.append(f"{name:12} {count.cases:>9,} {rate:>9,.0f} {count.found:>9,}  {outcomes}")
    first: dict[str, str] = {}
    for line in ledger.findings():
        first.setdefault(f"{line['case'].split(':')[0]}: {line['sign']}", line["replay"])
    for name, count in ledger.counts.items():
        for sign, n in count.findings.items():
            lines += ["", f"{n} x {name}: {sign}", f"  {first.get(f'{name}: {sign}', '')}"]
    return "\n".join(lines)
