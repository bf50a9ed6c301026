"""The folder of an export: what it may hold before, and files that are written with an artefact."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

from flashir.errors import ArtefactError, option
from flashir.files.atomic import UNFINISHED, atomic_files, writing

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


def with_files(out: Path, files: Mapping[str, bytes], commit: Callable[[], Path]) -> Path:
    """Write files into a folder, and `commit` what they belong to. All are on disk before `commit`, named after it."""
    committed: list[Path] = []
    writers = {name: partial(_write, content) for name, content in files.items()}
    atomic_files(out, writers, lambda _: committed.append(commit()))
    return committed[0]


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)
