"""onnxruntime-web: the two files of it that the page takes, from where they are published or from beside the page."""

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
PUBLISHED = {  # sha384 of the files of the package
    SCRIPT: "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    BINARY: "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}


@dataclass(frozen=True)
class Runtime:
    """Where the page finds onnxruntime-web.

    Args:
        name: what people should read.
        place: a URL that ends in a slash, relative to the page.
        integrity: the digest of each file, as browsers check it.
        origin: what else than its own the page may load from.
    """

    name: str
    place: str
    integrity: Mapping[str, str]
    origin: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As the page reads it."""
        script, binary = ({"name": name, "integrity": self.integrity[name]} for name in (SCRIPT, BINARY))
        return {"place": self.place, "script": script, "binary": binary}


def published() -> Runtime:
    """The release that this page was tested with, from a public host of packages."""
    return Runtime(f"onnxruntime-web {VERSION}", f"{ORIGIN}/npm/onnxruntime-web@{VERSION}/dist/", PUBLISHED, ORIGIN)


def beside(source: Path) -> Runtime:
    """The files of a folder as the page finds them once `copied`. Raises ArtefactError where one cannot be read."""
    return Runtime("onnxruntime-web", f"{FOLDER}/", {name: _integrity(source / name) for name in FILES})


def copied(source: Path, folder: Path, commit: Callable[[], object]) -> list[Path]:
    """Copy the files of a folder to `ort/` in that of the page, so that it needs no network.

    Args:
        source: such as `node_modules/onnxruntime-web/dist`.
        folder: of the page.
        commit: is called once they are on disk; where it raises, none is copied.

    Raises:
        InputError: a file is missing.
        ArtefactError: one cannot be read or written; and what `commit` raises.
    """
    check(source)
    atomic_files(folder / FOLDER, {name: partial(_copy, source / name) for name in FILES}, lambda _: commit())
    return [folder / FOLDER / name for name in FILES]


def _copy(path: Path, file: BinaryIO) -> None:
    with reading(path):
        content = path.read_bytes()
    file.write(content)


def check(source: Path) -> None:
    """Raises InputError where a folder lacks a file of onnxruntime-web."""
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
