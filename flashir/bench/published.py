"""Published latencies compared with predictions for the same models on the same machine."""

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

APART = 0.15  # systems whose published times differ by more must be predicted in the same order
_TABLES = files("flashir.bench") / "tables"


class Published(msgspec.Struct, frozen=True):
    """One system of a table: its further settings in the zoo, and its milliseconds per length."""

    ms: tuple[float, ...]
    settings: dict[str, Any] = {}


class Table(msgspec.Struct, frozen=True):
    """A published table.

    Args:
        title, source: the title of the table, and where it was published.
        task, size: the task and size of the models in the zoo.
        target: the machine of the measurements.
        tokens: tokens per batch over all devices.
        lengths: tokens per row.
        systems: the systems by their names in the zoo.
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
        """The relative error of the prediction; negative if it is too short."""
        return self.predicted_ms / self.published_ms - 1


@dataclass(frozen=True)
class Comparison:
    """A table with the predictions of all its numbers."""

    table: Table
    rows: tuple[Row, ...] = field(repr=False)

    @property
    def median_error(self) -> float:
        """The median of the absolute errors."""
        return median(abs(row.error) for row in self.rows)

    @property
    def worst_error(self) -> float:
        """The largest absolute error."""
        return max(abs(row.error) for row in self.rows)

    @property
    def misordered(self) -> tuple[tuple[int, str, str], ...]:
        """Pairs of systems that differ by more than `APART` in print, and are predicted in the other order."""
        return tuple(
            (a.seq_len, a.system, b.system)
            for a, b in combinations(self.rows, 2)
            if a.seq_len == b.seq_len
            and abs(a.published_ms - b.published_ms) > APART * min(a.published_ms, b.published_ms)
            and (a.published_ms - b.published_ms) * (a.predicted_ms - b.predicted_ms) <= 0
        )

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        workload: Mapping[str, Any] = {
            name: getattr(self.table, name) for name in ("title", "source", "task", "size", "target", "tokens")
        }
        return {
            **workload,
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
    """The names of the tables."""
    return tuple(sorted(file.name.removesuffix(".toml") for file in _TABLES.iterdir() if file.name.endswith(".toml")))


def read_table(name: str) -> Table:
    """Read a table by name. Raises SettingError if there is none."""
    if name not in table_names():
        raise SettingError(f"there is no published table {name!r}", hint=f"one of {', '.join(table_names())}")
    return msgspec.toml.decode((_TABLES / f"{name}.toml").read_bytes(), type=Table)


def compare(table: Table, progress: Callable[[str, int, int], object] = lambda what, done, of: None) -> Comparison:
    """Predict every number of a table. `progress` is called with the system, the number done, and the total."""
    return Comparison(table, tuple(_rows(table, progress)))


def _rows(table: Table, progress: Callable[[str, int, int], object]) -> Iterator[Row]:
    for done, (name, system) in enumerate(table.systems.items()):
        progress(name, done, len(table.systems))
        graph = model(name, size=table.size, task=table.task, **system.settings)
        for seq_len, published in zip(table.lengths, system.ms, strict=True):
            batch = table.tokens // seq_len
            prediction = plan(graph, table.target, batch, seq_len, training=True, measured=False)
            yield Row(name, seq_len, published, prediction.predicted_ms, prediction.peak_bytes)
