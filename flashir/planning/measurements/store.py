"""The store of measurements: one SQLite file that several tuners may write at once.

A trial belongs to the settled model, so the same trial serves `chunk = auto`, `--chunk 256` and a file with
`chunk = 256`. Every tuner adds its own rows and never overwrites those of another. If two measured the same model,
`correct` takes the more certain one.

SQLite does not detect most disk corruption. So each row carries a digest of its content, and the store a digest of all
rows. Both are verified on every read and before every write.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, fields, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import msgspec

from flashir.errors import ArtefactError, spoken
from flashir.files.atomic import check_room
from flashir.files.foreign import reason
from flashir.ir import Attr, Graph, dumps
from flashir.machine.profile import in_cache
from flashir.planning.measurements.key import store_path
from flashir.planning.measurements.trial import Trial

SCHEMA = 4
OURS = int.from_bytes(b"flsh", "big")  # the application id that marks a SQLite file as a store
WRITER_WAITS_S = 30.0
READER_WAITS_S = 1.0

COLUMNS = tuple(column.name for column in fields(Trial))
KEY = COLUMNS[: COLUMNS.index("tuning") + 1]

_CREATE = f"""CREATE TABLE trials (
    model TEXT NOT NULL, target TEXT NOT NULL, device TEXT NOT NULL, versions TEXT NOT NULL,
    training INTEGER NOT NULL, batch INTEGER NOT NULL, seq_len INTEGER NOT NULL, tuning TEXT NOT NULL,
    choices TEXT NOT NULL, predicted_ms REAL NOT NULL, measured_ms REAL NOT NULL,
    spread_ms REAL NOT NULL, runs INTEGER NOT NULL, date TEXT NOT NULL, sha256 TEXT NOT NULL,
    PRIMARY KEY ({", ".join(KEY)})) WITHOUT ROWID"""
_REALS = ("predicted_ms", "measured_ms", "spread_ms")
_STORED = (*COLUMNS, "sha256")
_ADD = f"INSERT OR REPLACE INTO trials ({', '.join(_STORED)}) VALUES ({', '.join('?' * len(_STORED))})"


def digest(settled: Graph) -> str:
    """The identity of a model: the SHA-256 of its IR text without its name."""
    return sha256(dumps(replace(settled, name="model")).encode()).hexdigest()


def row_digest(trial: Trial) -> str:
    """The SHA-256 of a trial."""
    return sha256(msgspec.json.encode(trial)).hexdigest()


def whole_digest(rows: Iterable[str]) -> str:
    """The SHA-256 of all rows of a store, from their digests in any order."""
    return sha256("".join(sorted(rows)).encode()).hexdigest()


def bucket(seq_len: int) -> tuple[int, int]:
    """The range of lengths that share measurements: above one power of two, up to the next."""
    top = 1 << (seq_len - 1).bit_length()
    return top // 2 + 1, top


def new_tuning() -> str:
    """A unique id for a tuner."""
    return secrets.token_hex(8)


def now() -> str:
    """The current time in the format of `Trial.date`."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Store:
    """The trials in one file. A context manager; every call is its own transaction.

    Args:
        path: the file; defaults to that of this user.
        write: create the file if it is missing. Otherwise the file is never changed.

    Raises:
        ArtefactError: the file cannot be opened, is damaged, or is not a store of this version. Every method may raise
            it as well.
    """

    def __init__(self, path: Path | None = None, *, write: bool = False) -> None:
        self.path = path or store_path()
        if write:
            with in_cache():
                check_room(self.path.parent)
        with self._errors():
            uri = f"{self.path.absolute().as_uri()}?{self._mode(write)}"
            wait = WRITER_WAITS_S if write else READER_WAITS_S
            self._connection = sqlite3.connect(uri, uri=True, timeout=wait, isolation_level=None)
            self._connection.text_factory = _as_text
        try:
            with self._errors():
                with self._transaction("DEFERRED"):
                    self._empty = self._inspect()
                if write:
                    self._prepare()
                    self.all()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Closing twice is allowed."""
        self._connection.close()

    def add(self, *trials: Trial) -> int:
        """Add all trials or none, and return how many were added.

        Of several trials with the same key, the latest stays.
        """
        with self._errors(), self._transaction():
            latest = {_key(trial): trial for trial in self._verified()}
            changed = {}
            for trial in map(_plain, trials):
                known = latest.get(_key(trial))
                if known is None or trial.date > known.date:
                    latest[_key(trial)] = changed[_key(trial)] = trial
            rows = [(*astuple(trial), row_digest(trial)) for trial in changed.values()]
            self._connection.executemany(_ADD, rows)
            self._connection.execute("UPDATE whole SET sha256 = ?", [whole_digest(map(row_digest, latest.values()))])
            return len(changed)

    def all(self) -> list[Trial]:
        """Every trial, oldest first."""
        if self._empty:
            return []
        with self._errors(), self._transaction("DEFERRED"):
            return sorted(self._verified(), key=lambda trial: (trial.date, trial.model))

    def find(
        self, models: Sequence[str], place: dict[str, str], *, training: bool, batch: int, seq_len: int
    ) -> list[Trial]:
        """The trials of these models at lengths in the same bucket, oldest first.

        Args:
            models: the digests of the models.
            place: `target`, `device` and `versions`.
            training, batch: as measured.
            seq_len: a length in the bucket.
        """
        low, high = bucket(seq_len)
        wanted: dict[str, Any] = {name: place[name] for name in ("target", "device", "versions")}
        wanted |= {"training": training, "batch": batch}
        return [
            trial
            for trial in self.all()
            if trial.model in models
            and low <= trial.seq_len <= high
            and all(getattr(trial, name) == value for name, value in wanted.items())
        ]

    def _verified(self) -> list[Trial]:
        """Every trial, inside a transaction. Raises ArtefactError if one was changed or is missing."""
        rows = self._connection.execute(f"SELECT {', '.join(_STORED)} FROM trials").fetchall()
        named = [dict(zip(COLUMNS, row)) for row in rows]
        digests = [row[-1] for row in rows]
        try:
            trials = msgspec.convert([{**row, "training": bool(row["training"])} for row in named], list[Trial])
        except msgspec.ValidationError as error:
            raise ArtefactError(f"a trial is damaged: {reason(error)}", where=str(self.path), hint=_START_NEW) from None
        whole = self._connection.execute("SELECT sha256 FROM whole").fetchall()
        changed = sum(row_digest(trial) != digest for trial, digest in zip(trials, digests, strict=True))
        if changed or whole != [(whole_digest(digests),)]:
            what = f"{changed} of its {len(rows)} trials are not" if changed else "its trials are not all"
            raise ArtefactError(f"the store is damaged: {what} what was written", where=str(self.path), hint=_START_NEW)
        return trials

    def _mode(self, write: bool) -> str:
        """The options of the SQLite URI. A read-only folder cannot hold the WAL files, so the file is immutable."""
        if write:
            return "mode=rwc"
        return "mode=ro" if os.access(self.path.parent, os.W_OK) else "mode=ro&immutable=1"

    def _inspect(self) -> bool:
        """Whether the file is empty. Raises ArtefactError if it is not a store, or lacks a table or column."""
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (schema,) = self._connection.execute("PRAGMA user_version").fetchone()
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables and not application:
            return True
        if application != OURS:
            raise ArtefactError("a SQLite file, but not a store of flashir", where=str(self.path), hint=_START_NEW)
        if schema != SCHEMA:
            raise ArtefactError(
                f"the store must have schema {SCHEMA}, got {schema}: another version of flashir wrote it",
                where=str(self.path),
                hint=f"{_START_NEW}, and {spoken('import_json', '--import')} takes what "
                f"{spoken('export_json', '--export')} of that version wrote",
            )
        for table, columns in (("trials", _STORED), ("whole", ("sha256",))):
            names = self._connection.execute("SELECT name FROM pragma_table_info(?)", [table])
            if (present := tuple(name for (name,) in names)) != columns:
                raise ArtefactError(
                    f"the table {table} must have the columns {', '.join(columns)}, got {', '.join(present) or 'none'}",
                    where=str(self.path),
                    hint=_START_NEW,
                )
        return False

    def _prepare(self) -> None:
        """Create the tables, unless another tuner did so first."""
        self._connection.execute("PRAGMA synchronous = NORMAL")
        if not self._empty:
            return
        with self._transaction():
            if self._inspect():
                self._connection.execute(_CREATE)
                self._connection.execute("CREATE TABLE whole (sha256 TEXT NOT NULL)")
                self._connection.execute("INSERT INTO whole VALUES (?)", [whole_digest(())])
                self._connection.execute(f"PRAGMA application_id = {OURS}")
                self._connection.execute(f"PRAGMA user_version = {SCHEMA}")
        self._empty = False
        with suppress(sqlite3.OperationalError):  # a reader holds the file; without WAL the store is only slower
            self._connection.execute("PRAGMA journal_mode = WAL")

    @contextmanager
    def _transaction(self, kind: Literal["DEFERRED", "IMMEDIATE"] = "IMMEDIATE") -> Iterator[None]:
        """A transaction. DEFERRED reads a consistent snapshot; IMMEDIATE also locks out other writers at once."""
        self._connection.execute(f"BEGIN {kind}")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            hint = "close other programs that use the store, then retry" if "locked" in str(error) else _ALLOWED
            raise ArtefactError(f"the store cannot be used: {error}", where=str(self.path), hint=hint) from error
        except (sqlite3.Error, MemoryError, OverflowError, ValueError) as error:  # a damaged page can give absurd sizes
            raise ArtefactError(f"the store is damaged: {error}", where=str(self.path), hint=_START_NEW) from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise ArtefactError(f"the store cannot be used: {reason}", where=str(self.path), hint=_ALLOWED) from error


_START_NEW = "move the file away; `flashir tune` starts a new one"
_ALLOWED = "make the file and its folder readable and writable, or set FLASHIR_CACHE to another folder"


def _as_text(content: bytes) -> str:
    """Decode a text of SQLite. Invalid UTF-8 is not an error here: the digest will not match."""
    return content.decode(errors="replace")


def _plain(trial: Trial) -> Trial:
    """The trial as SQLite returns it: REAL columns as floats, without negative zeros."""
    reals: dict[str, Any] = {name: float(getattr(trial, name)) + 0.0 for name in _REALS}
    return replace(trial, **reals)


def _key(trial: Trial) -> tuple[Any, ...]:
    return tuple(getattr(trial, name) for name in KEY)


def choices_text(settings: Mapping[str, Attr]) -> str:
    """The values of choices as JSON, in the order of their names."""
    return msgspec.json.encode(dict(sorted(settings.items()))).decode()
