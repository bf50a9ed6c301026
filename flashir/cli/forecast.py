"""About how long a job takes, told before it begins."""

from __future__ import annotations

from flashir.cli import console

LONG_S = 60.0
"""A job of at least this many seconds comes with advice."""


def tell(work: str, seconds: float, advice: str, by: str = "the cost model") -> None:
    """Print on stderr: `24 cases: about 12 min by the cost model; fewer --rounds shorten it`."""
    console.note(f"{work}: about {duration(seconds)} by {by}{f'; {advice}' if seconds >= LONG_S else ''}")


def duration(seconds: float) -> str:
    """A duration as text: `40 s`, `12 min`, `3 h 05 min`, `2 d 07 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"
