"""Records of devices that the user adds: files in the user's configuration folder."""

from __future__ import annotations

import os
from pathlib import Path

from flashir.backends.registry import backend_names
from flashir.cost.target import Target
from flashir.cost.target_files import file_of, parse_record
from flashir.errors import TargetError, either, suggest
from flashir.files.atomic import atomic_write, writing
from flashir.files.foreign import SMALL, read_text


def own_records() -> Path:
    """The folder of the user's records, in `$FLASHIR_CONFIG` or the user's configuration folder; it may not exist."""
    from platformdirs import user_config_path

    configured = os.environ.get("FLASHIR_CONFIG")
    return (Path(configured) if configured else user_config_path("flashir")) / "targets"


def add_record(file: Path, others: frozenset[str]) -> Target:
    """Check a record and store it, replacing an earlier one of the user with the same name.

    Args:
        file: the record, as TOML; its name does not matter.
        others: the names of targets whose records are not the user's.

    Raises:
        TargetError: all problems of the record, or it cannot be read.
        ArtefactError: it cannot be stored.
    """
    text = read_text(file, TargetError, largest=SMALL, problem="the record cannot be read")
    record = parse_record(text, str(file), named=False)
    if record.backend not in backend_names():
        raise TargetError(
            f"there is no backend {record.backend!r}{suggest(record.backend, backend_names())}",
            where=str(file),
            hint=f"name the target {either([f'{name}:{record.device}' for name in backend_names()])}",
        )
    if record.name in others:
        raise TargetError(
            f"there is a record of {record.name} already",
            where=str(file),
            hint=f"give yours another name, such as '{record.name}-2'; "
            f"`flashir calibrate` fits the record of this machine",
        )
    atomic_write(own_records() / file_of(record.name), lambda output: output.write(text.encode()))
    return record


def remove_record(name: str) -> Path:
    """Remove a record of the user, and return its former file. Raises TargetError if there is none, ArtefactError."""
    path = own_records() / file_of(name)
    if not path.is_file():
        names = [f"{added.stem.replace('-', ':', 1)}" for added in sorted(own_records().glob("*.toml"))]
        raise TargetError(
            f"you have added no record of {name!r}{suggest(name, names)}",
            hint=f"yours are {', '.join(names)}" if names else "only records of your own can be removed",
        )
    with writing(path):
        path.unlink()
    return path
