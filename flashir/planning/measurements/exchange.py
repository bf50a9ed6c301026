"""The JSON form of a store of measurements, which other machines and other people import."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from flashir.errors import ArtefactError, Faults
from flashir.files.atomic import atomic_write
from flashir.files.foreign import guarded, parse_json, read_bytes, reason
from flashir.files.sealed_json import is_whole, sealed
from flashir.planning.measurements.key import store_path
from flashir.planning.measurements.store import SCHEMA, Store, choices_text
from flashir.planning.measurements.trial import Trial

EXCHANGED = (2, 3, SCHEMA)  # schemas that `import_json` accepts; schema 2 has no digest
COLUMNS_BEFORE = ("chunk", "cumsum", "tile")  # of schemas 2 and 3, which knew no other choices
FORMAT = "flashir-tune"
LISTED = 20  # at most so many problems of a file are shown


class _Exchange(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON form of a store. Trials are decoded one by one, so that all problems are reported."""

    format: str
    schema: int
    trials: list[Any]
    sha256: str | None = None


def export_json(path: str | Path) -> int:
    """Write every trial of the store as JSON and return their number. Raises ArtefactError."""
    trials: list[Trial] = []
    if store_path().exists():
        with Store() as store:
            trials = store.all()
    document = sealed({"format": FORMAT, "schema": SCHEMA, "trials": trials})
    text = msgspec.json.format(msgspec.json.encode(document), indent=1)
    atomic_write(Path(path), lambda file: file.write(text + b"\n"))
    return len(trials)


def import_json(*paths: str | Path) -> int:
    """Add all trials of files that `export_json` wrote, or none. Return how many were new or newer.

    The files may come from several people: a trial belongs to the device and the tuner that measured it, so none
    replaces that of another. `correct` says which of them counts.

    Raises:
        ArtefactError: all problems of the files, or the store cannot be used.
    """
    faults = Faults()
    trials = [trial for path in paths for trial in faults.of(_trials_in, path) or ()]
    faults.tell()
    with Store(write=True) as store:
        return store.add(*trials)


def _trials_in(path: str | Path) -> list[Trial]:
    """The trials of a file. Raises ArtefactError with all its problems."""
    content = read_bytes(path, ArtefactError, problem="cannot read")
    document = parse_json(content, path, ArtefactError, dict[str, Any], problem="no export of a store")
    with guarded(path, ArtefactError, "no export of a store"):
        exchange = msgspec.convert(document, _Exchange)
    problems = [] if exchange.format == FORMAT else [f"format must be {FORMAT!r}, got {exchange.format!r}"]
    if exchange.schema not in EXCHANGED:
        problems.append(f"schema must be {' or '.join(map(str, EXCHANGED))}, got {exchange.schema}")
    raw = exchange.trials if exchange.schema == SCHEMA else list(map(_renewed, exchange.trials))
    trials = list(_decoded(raw, problems))
    if not problems and not is_whole(document) and (exchange.schema > 2 or exchange.sha256 is not None):
        problems.append("it is damaged, or was changed: its sha256 does not match its content")
    if problems:
        more = [f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        raise ArtefactError([*problems[:LISTED], *more], where=str(path), hint="nothing was imported")
    return trials


def _renewed(trial: Any) -> Any:
    """A trial of an earlier schema, whose choices were columns, in the form of this one; others as they are."""
    if not isinstance(trial, dict) or "choices" in trial:
        return trial
    values = {name: trial[name] for name in COLUMNS_BEFORE if trial.get(name) is not None}
    others = {name: value for name, value in trial.items() if name not in COLUMNS_BEFORE}
    return {**others, "choices": choices_text(values)}


def _decoded(raw: Iterable[Any], problems: list[str]) -> Iterator[Trial]:
    for index, trial in enumerate(raw):
        try:
            yield msgspec.convert(trial, Trial)
        except msgspec.ValidationError as error:
            problems.append(f"trial {index}: {reason(error)}")
