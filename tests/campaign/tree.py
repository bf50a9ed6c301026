"""A process and its descendants in /proc: their total usage, and how to end them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Seconds of processor time, and bytes of memory."""

    seconds: float
    memory: int


def tree(pid: int) -> list[int]:
    """The process and its descendants, parents first."""
    children: dict[int, list[int]] = {}
    for other, stat in _all():
        children.setdefault(int(stat[1]), []).append(other)
    found = [pid]
    for each in found:  # the list grows during the loop
        found += children.get(each, [])
    return found


def usage_of(pid: int) -> Usage:
    """The usage of the process and its descendants, including the time of those that ended."""
    seconds, memory = 0.0, 0
    for each in tree(pid):
        stat = _stat(each)
        if stat is not None:
            seconds += sum(map(int, stat[11:15])) / _TICKS
            memory += int(stat[21]) * _PAGE
    return Usage(seconds, memory)


def kill_tree(pid: int) -> None:
    """Kill the process and its descendants, parents first, so that none starts another."""
    for each in tree(pid):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(each, signal.SIGKILL)


def _all() -> Iterator[tuple[int, list[str]]]:
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and (stat := _stat(int(entry.name))) is not None:
            yield int(entry.name), stat


def _stat(pid: int) -> list[str] | None:
    """The fields after the name: state, parent, ..; None if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
