"""The table of ops, which loads the standard ops on first use.

`OPS["flash"]` imports `flashir.ops`, whose modules call `define_op`. So this package does not import the ops, which
import it.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Generic, TypeVar

Record = TypeVar("Record")

STANDARD = "flashir.ops"
"""The package that defines the standard ops on import."""


class OpTable(MutableMapping[str, Record], Generic[Record]):
    """Every op by name. The first access loads the standard ops; plug-ins add theirs."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self._complete = False

    def __getitem__(self, name: str) -> Record:
        if name not in self._records:
            self._load()
        return self._records[name]

    def __contains__(self, name: object) -> bool:
        if name not in self._records:
            self._load()
        return name in self._records

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._records)

    def __len__(self) -> int:
        self._load()
        return len(self._records)

    def __setitem__(self, name: str, op: Record) -> None:
        self._records[name] = op

    def __delitem__(self, name: str) -> None:
        del self._records[name]

    def is_defined(self, name: str) -> bool:
        """Whether the op is already loaded."""
        return name in self._records

    def _load(self) -> None:
        """Import the standard ops, once. While they load, the table holds those loaded so far."""
        if not self._complete:
            import_module(STANDARD)
            self._complete = True
