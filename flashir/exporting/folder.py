"""The folder of an export: what it may hold before, and files that are written with an artefact.

Nothing in a file for a host, such as a config, says that an export wrote it. So `flashir.json` lists them with their
digests, and the next export removes those that it does not write again, unless they were changed (`earlier.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from flashir.backends.protocols import Written
from flashir.errors import ArtefactError, option
from flashir.files.atomic import PAGE, UNFINISHED, atomic_files, sha256, writing
from flashir.files.foreign import SMALL, parse_json, read_text

RECORD = "flashir.json"
LISTED = 3  # at most so many files of a folder are named in a message
CUT_SHORT = re.compile(rf"\..+{re.escape(UNFINISHED)}|model-[0-9a-f]{{12}}\.[a-z]+")
"""Names of files that an interrupted export may leave in a folder; the next export removes or rewrites them."""


def check_folder(out: Path) -> None:
    """Raise ArtefactError if `out` exists and is not a folder."""
    if (out.exists() or out.is_symlink()) and not out.is_dir():
        raise ArtefactError("this is not a folder", where=str(out), hint="choose another name")


def check_free(out: Path) -> None:
    """Raise ArtefactError if the folder holds anything but the leftovers of an interrupted export."""
    check_folder(out)
    with writing(out):
        names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    names = [name for name in names if not CUT_SHORT.fullmatch(name)]
    if names:
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        raise ArtefactError(
            f"the folder is not empty: it holds {', '.join(names[:LISTED])}{more}",
            where=str(out),
            hint=f"{option('force')} replaces an exported model in it and keeps other files; or choose another folder",
        )


def json_file(value: object) -> bytes:
    """The content of a JSON file that people may read."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def with_files(
    out: Path, files: Mapping[str, bytes], commit: Callable[[], Written], others: Mapping[str, str] | None = None
) -> Written:
    """Write files into a folder, and `commit` what they belong to. All are on disk before `commit`, named after it.

    Args:
        out: the folder.
        files: the files for a host, by name; if there are any, RECORD is written too.
        commit: writes the artefact.
        others: the digests of further files for the host which `commit` or its caller writes.
    """
    committed = list[Written]()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()} | dict(others or {})
    room = {RECORD: bytes(PAGE)} if files else {}

    def finish(unfinished: Mapping[str, Path]) -> None:
        written = commit()
        committed.append(written)
        if files:
            with writing(out / RECORD), unfinished[RECORD].open("r+b") as file:
                file.write(record(digests | {written.path.name: sha256(written.path)}))
                file.truncate()
                os.fsync(file.fileno())

    atomic_files(out, {name: partial(_write, content) for name, content in {**files, **room}.items()}, finish)
    return committed[0]


def record(digests: Mapping[str, str]) -> bytes:
    """The content of RECORD: files of an export and their digests, by name."""
    return json_file({"schema": 1, "files": dict(digests)})


def recorded(out: Path) -> dict[str, str]:
    """The digests of files that an earlier export wrote; none if its record is missing or damaged."""
    with suppress(ArtefactError):
        text = read_text(out / RECORD, ArtefactError, largest=SMALL, problem="the record cannot be read")
        manifest = parse_json(text, out / RECORD, ArtefactError, dict[str, object], problem="it is damaged")
        files = manifest.get("files")
        if isinstance(files, dict):
            return {name: str(digest) for name, digest in files.items() if "\0" not in name and _holds(out, name)}
    return {}


def _holds(out: Path, name: str) -> bool:
    """Whether a file of this name would be inside the folder."""
    return Path(os.path.realpath(out)) in Path(os.path.realpath(out / name)).parents


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)
