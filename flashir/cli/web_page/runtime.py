"""The two files of onnxruntime-web that the page loads, from a public host or from a folder beside the page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from flashir.errors import InputError
from flashir.files.atomic import atomic_files, reading

VERSION = "1.30.0"
ORIGIN = "https://cdn.jsdelivr.net"
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
FILES = (SCRIPT, BINARY)
FOLDER = "ort"
PUBLISHED = {  # the SHA-384 of the files of the package
    SCRIPT: "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    BINARY: "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}


@dataclass(frozen=True)
class Runtime:
    """The onnxruntime-web that the page loads.

    Args:
        name: the name for people.
        place: the URL of the folder, relative to the page; it ends in a slash.
        integrity: the digest of each file, in the format that browsers check.
        origin: the other origin that the page may load from, if any.
    """

    name: str
    place: str
    integrity: Mapping[str, str]
    origin: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The JSON object that the page reads."""
        script, binary = ({"name": name, "integrity": self.integrity[name]} for name in (SCRIPT, BINARY))
        return {"place": self.place, "script": script, "binary": binary}


def published() -> Runtime:
    """The release that the page was tested with, on a public host."""
    return Runtime(f"onnxruntime-web {VERSION}", f"{ORIGIN}/npm/onnxruntime-web@{VERSION}/dist/", PUBLISHED, ORIGIN)


def beside(source: Path) -> Runtime:
    """The files of a folder after `copied`. Raises ArtefactError if one cannot be read."""
    return Runtime("onnxruntime-web", f"{FOLDER}/", {name: _integrity(source / name) for name in FILES})


def copied(source: Path, folder: Path, commit: Callable[[], object]) -> list[Path]:
    """Copy the files of a folder to `ort/` beside the page, so that the page needs no network.

    Args:
        source: a folder such as `node_modules/onnxruntime-web/dist`.
        folder: the folder of the page.
        commit: called when the copies are on disk; if it raises, they are removed.

    Raises:
        InputError: a file is missing.
        ArtefactError: a file cannot be read or written. Errors of `commit` pass through.
    """
    check(source)
    atomic_files(folder / FOLDER, {name: partial(_copy, source / name) for name in FILES}, lambda _: commit())
    return [folder / FOLDER / name for name in FILES]


def _copy(path: Path, file: BinaryIO) -> None:
    with reading(path):
        content = path.read_bytes()
    file.write(content)


def check(source: Path) -> None:
    """Raise InputError if a folder lacks a file of onnxruntime-web."""
    missing = [name for name in FILES if not (source / name).is_file()]
    if missing:
        raise InputError(
            f"has no {' and no '.join(missing)}",
            where=str(source),
            hint=f"npm install onnxruntime-web@{VERSION}, and give node_modules/onnxruntime-web/dist",
        )


def _integrity(path: Path) -> str:
    with reading(path), path.open("rb") as file:
        return f"sha384-{base64.b64encode(hashlib.file_digest(file, 'sha384').digest()).decode()}"
