"""The record of a run in progress. It is written from the start, so that a killed run loses nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic

from flashir.bench.record import Record, Row
from flashir.errors import ArtefactError

SECONDS = 2.0
"""The least time between two writes, because rounds may be short and disks slow."""


@dataclass
class Draft:
    """A growing record, marked as incomplete until the run ends.

    Args:
        record: the current record.
        folder: the folder of its file.
        lost: the error of the last write; None if the file is up to date.
    """

    record: Record
    folder: Path
    lost: ArtefactError | None = field(default=None, init=False)
    _due: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.record = replace(self.record, complete=False)

    @property
    def path(self) -> Path:
        """The file of the record."""
        return self.folder / f"{self.record.name}.json"

    @property
    def measured(self) -> bool:
        """Whether there is at least one sample."""
        return any(row.samples_ms for row in self.record.rows)

    def follow(self, rows: Sequence[Row]) -> None:
        """Update the rows. A failed write, such as on a full disk, is retried later."""
        self.record = replace(self.record, rows=tuple(rows))
        if monotonic() >= self._due:
            self._write()

    @contextmanager
    def recording(self, rows: Sequence[Row]) -> Iterator[None]:
        """Inside, keep the file up to date, however the run ends. If nothing was measured, remove the file.

        Args:
            rows: the planned rows.

        Raises:
            ArtefactError: the file cannot be written; raised before anything is measured.
        """
        self.record = replace(self.record, rows=tuple(rows))
        self._write()
        if self.lost is not None:
            raise self.lost
        try:
            yield
            self.record = replace(self.record, complete=True)
        finally:
            if self.record.complete or self.measured:
                self._write()
            else:
                self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        try:
            self.record.write(self.path)
            self.lost = None
        except ArtefactError as error:
            self.lost = error
        self._due = monotonic() + SECONDS
