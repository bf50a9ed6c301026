"""Published latencies beside what the cost model predicts for the same models on the same machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import combinations
from statistics import median
from typing import Any

import msgspec

from flashir.errors import SettingError
from flashir.models.load import model
from flashir.planning.plan import plan

APART = 0.15  # two systems this far apart in print must not come out in the other order
_TABLES = files("flashir.bench") / "tables"


class Published(msgspec.Struct, frozen=True):
    """One system of a table: its settings beside those of the zoo, and milliseconds for each length."""

    ms: tuple[float, ...]
    settings: dict[str, Any] = {}


class Table(msgspec.Struct, frozen=True):
    """A published table.

    Args:
        title, source: what it holds, and where it stands.
        task, size: of the models, as in the zoo.
        target: the machine that it was measured on.
        tokens: of one batch, over all devices.
        lengths: tokens a row.
        systems: by their names in the zoo.
    """

    title: str
    source: str
    task: str
    size: str
    target: str
    tokens: int
    lengths: tuple[int, ...]
    systems: dict[str, Published]


@dataclass(frozen=True)
class Row:
    """One number of a table, and its prediction."""

    system: str
    seq_len: int
    published_ms: float
    predicted_ms: float
    peak_bytes: int

    @property
    def error(self) -> float:
        """How much too long the prediction is, as a share; negative where it is too short."""
        return self.predicted_ms / self.published_ms - 1


@dataclass(frozen=True)
class Comparison:
    """A whole table, predicted."""

    table: Table
    rows: tuple[Row, ...] = field(repr=False)

    @property
    def median_error(self) -> float:
        """The middle of the errors, without their signs."""
        return median(abs(row.error) for row in self.rows)

    @property
    def worst_error(self) -> float:
        """The largest of them."""
        return max(abs(row.error) for row in self.rows)

    @property
    def misordered(self) -> tuple[tuple[int, str, str], ...]:
        """The pairs of systems that stand further apart than `APART` in print, and in the other order in prediction."""
        return tuple(
            (a.seq_len, a.system, b.system)
            for a, b in combinations(self.rows, 2)
            if a.seq_len == b.seq_len
            and abs(a.published_ms - b.published_ms) > APART * min(a.published_ms, b.published_ms)
            and (a.published_ms - b.published_ms) * (a.predicted_ms - b.predicted_ms) <= 0
        )

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        about: Mapping[str, Any] = {
            name: getattr(self.table, name) for name in ("title", "source", "task", "size", "target", "tokens")
        }
        return {
            **about,
            "median_error": self.median_error,
            "worst_error": self.worst_error,
            "misordered": [list(pair) for pair in self.misordered],
            "rows": [
                {
                    "system": row.system,
                    "seq_len": row.seq_len,
                    "published_ms": row.published_ms,
                    "predicted_ms": row.predicted_ms,
                    "peak_bytes": row.peak_bytes,
                    "error": row.error,
                }
                for row in self.rows
            ],
        }


def table_names() -> tuple[str, ...]:
    """The tables that are known."""
    return tuple(sorted(file.name.removesuffix(".toml") for file in _TABLES.iterdir() if file.name.endswith(".toml")))


def read_table(name: str) -> Table:
    """The table of that name. Raises SettingError where there is none."""
    if name not in table_names():
        raise SettingError(f"there is no published table {name!r}", hint=f"one of {', '.join(table_names())}")
    return msgspec.toml.decode((_TABLES / f"{name}.toml").read_bytes(), type=Table)


def compare(table: Table, progress: Callable[[str, int, int], object] = lambda what, done, of: None) -> Comparison:
    """Predict every number of a table; `progress` is told the system, how many are done, and of how many."""
    return Comparison(table, tuple(_rows(table, progress)))


def _rows(table: Table, progress: Callable[[str, int, int], object]) -> Iterator[Row]:
    for done, (name, found) in enumerate(table.systems.items()):
        progress(name, done, len(table.systems))
        graph = model(name, size=table.size, task=table.task, **found.settings)
        for seq_len, published in zip(table.lengths, found.ms, strict=True):
            batch = table.tokens // seq_len
            made = plan(graph, table.target, batch, seq_len, training=True, measured=False)
            yield Row(name, seq_len, published, made.predicted_ms, made.peak_bytes)
