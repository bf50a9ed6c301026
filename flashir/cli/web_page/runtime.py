"""onnxruntime-web: the two files of it that the page takes, from where they are published or from beside the page."""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flashir.errors import InputError
from flashir.files import atomic_write, reading

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


def copied(source: Path, folder: Path) -> Runtime:
    """The files of a folder, copied to `ort/` in that of the page, so that it needs no network.

    Args:
        source: such as `node_modules/onnxruntime-web/dist`.
        folder: of the page.

    Raises:
        InputError: a file is missing.
        ArtefactError: one cannot be read or written.
    """
    check(source)
    for name in FILES:
        with reading(source / name), (source / name).open("rb") as file:
            atomic_write(folder / FOLDER / name, partial(shutil.copyfileobj, file))
    return Runtime("onnxruntime-web", f"{FOLDER}/", {name: _integrity(folder / FOLDER / name) for name in FILES})


def check(source: Path) -> None:
    """Raises InputError where a folder lacks a file of onnxruntime-web."""
    missing = [name for name in FILES if not (source / name).is_file()]
    if missing:
        raise InputError(
            f"has no {' and no '.join(missing)}",
            where=str(source),
            mend=f"npm install onnxruntime-web@{VERSION}, and give node_modules/onnxruntime-web/dist",
        )


def _integrity(path: Path) -> str:
    with reading(path), path.open("rb") as file:
        return f"sha384-{base64.b64encode(hashlib.file_digest(file, 'sha384').digest()).decode()}"
