"""The record of a run while it runs: in its file from the first, so that whoever is killed has lost nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic

from flashir.bench.record import Record, Row
from flashir.errors import ArtefactError

SECONDS = 2.0
"""Between two writes at least: rounds may be short, and a disk slow."""


@dataclass
class Draft:
    """A record that grows, and says that it is not complete until it is.

    Args:
        record: as it is now.
        folder: where its file goes.
        lost: why what the record has now is not in its file; None where it is.
    """

    record: Record
    folder: Path
    lost: ArtefactError | None = field(default=None, init=False)
    _due: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.record = replace(self.record, complete=False)

    @property
    def path(self) -> Path:
        """Its file."""
        return self.folder / f"{self.record.name}.json"

    @property
    def measured(self) -> bool:
        """Whether there is a single sample."""
        return any(row.samples_ms for row in self.record.rows)

    def follow(self, rows: Sequence[Row]) -> None:
        """Take over what is known now. A disk that is full for a while ends nothing: the last write counts."""
        self.record = replace(self.record, rows=tuple(rows))
        if monotonic() >= self._due:
            self._write()

    @contextmanager
    def kept(self, rows: Sequence[Row]) -> Iterator[None]:
        """However what is inside ends, the file has what was measured; where that is nothing, there is no file.

        Args:
            rows: as planned.

        Raises:
            ArtefactError: the file cannot be written; nothing has been measured then.
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
