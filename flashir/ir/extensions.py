"""Ops from plug-ins: the modules of the entry points `flashir.ops`, imported when an op is unknown."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from threading import RLock
from typing import Any

from flashir.plugins import OPS, reason


@dataclass(frozen=True)
class Fault:
    """A plug-in that failed to load.

    Args:
        plugin: the name of the plug-in.
        module: the module of its entry point.
        problem: the error message.
        ops: the ops that it had started to define, the faulty one last. All of them are removed.
    """

    plugin: str
    module: str
    problem: str
    ops: tuple[str, ...]

    def __str__(self) -> str:
        at = f" at the op {self.ops[-1]!r}" if self.ops and f"{self.ops[-1]!r}" not in self.problem else ""
        return f"the plug-in {self.plugin!r} of {OPS} ({self.module}) does not load{at}: {self.problem}"


class Extensions:
    """Loads the ops of plug-ins into a table. A plug-in that fails adds none of its ops."""

    def __init__(self, table: MutableMapping[str, Any]) -> None:
        self._table = table
        self._lock = RLock()
        self._begun: list[str] = []
        self._is_loaded = False
        self.faults: tuple[Fault, ...] = ()
        """The plug-ins that failed; filled by `load`."""
        self.added: Mapping[str, tuple[str, ...]] = {}
        """The ops that were added, by plug-in; filled by `load`."""

    def begin(self, op: str) -> None:
        """Record that the definition of an op starts."""
        self._begun.append(op)

    def load(self) -> None:
        """Import every plug-in, once. Never raises; see `faults`."""
        with self._lock:
            if self._is_loaded:
                return
            self._is_loaded = True  # set first, because a plug-in may look up ops while it loads
            added = {}
            for entry in sorted(set(entry_points(group=OPS)), key=lambda entry: (entry.name, entry.value)):
                before = set(self._table)
                self._load(entry, before)
                added[entry.name] = tuple(name for name in self._table if name not in before)
            self.added = added

    def _load(self, entry: EntryPoint, before: set[str]) -> None:
        self._begun.clear()
        try:
            entry.load()
        except (Exception, SystemExit) as error:
            for name in set(self._table) - before:
                del self._table[name]
            self.faults += (Fault(entry.name, entry.value, reason(error), tuple(self._begun)),)
