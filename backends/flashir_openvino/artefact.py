"""The artefact on disk: `model.xml` and `model.bin`, the files that OpenVINO itself reads and writes.

A decoder is a further model, `decoder.xml`, or two: `prefill.xml` and `step.xml`. All read their weights from
model.bin, which has each weight once. The metadata of a model are in its runtime information, under `flashir`. A
comment at the end of model.xml names the further models, and holds a digest of all files, so that damage is found
before OpenVINO reads one.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

from flashir.backends.protocols import Written
from flashir.errors import ArtefactError
from flashir.files.atomic import atomic_files, in_folder, locked, sha256
from flashir.files.foreign import parse_json, read_bytes
from flashir_openvino.runtime import DATA_FILE, MODEL_FILE, core, reason, serialised
from flashir_openvino.shared_weights import share

if TYPE_CHECKING:
    from openvino import Model

DECODER_FILE, PREFILL_FILE, STEP_FILE = PART_FILES = ("decoder.xml", "prefill.xml", "step.xml")
KEY = "flashir"
LARGEST = 2**28
"""Most bytes of a model.xml."""

_NAMES = "|".join(map(re.escape, PART_FILES))
_SEAL = re.compile(rf"\n<!-- flashir\.sha256=([0-9a-f]{{64}})((?: (?:{_NAMES}))*) -->\n\Z".encode())


@dataclass(frozen=True)
class Part:
    """One model of an artefact, with its metadata."""

    model: Model
    metadata: Mapping[str, str]


def write(parts: Mapping[str, Part], out: Path, check: Callable[[Path], tuple[str, ...]]) -> Written:
    """Write and check an artefact, and then commit it.

    Args:
        parts: the models by file name, model.xml first.
        out: the folder; created if missing.
        check: called with a temporary model.xml; returns a line for each check that it passed.

    Raises:
        ArtefactError: the files cannot be written; also the errors of `check`.
    """
    with in_folder(out), locked(out), TemporaryDirectory() as folder:
        files = {name: _serialised(part, Path(folder, name).with_suffix("")) for name, part in parts.items()}
        (first, data), *others = files.values()
        share(data, others)
        further = [xml.rename(first.with_name(name)) for name, (xml, _) in files.items() if name != MODEL_FILE]
        content = first.read_bytes()
        seal = " ".join([_digest(content, [data, *further]), *(xml.name for xml in further)])
        first.write_bytes(content + f"\n<!-- flashir.sha256={seal} -->\n".encode())
        checks = check(first)
        atomic_files(out, {file.name: _copy(file) for file in (data, *further, first)})
    return Written(out / MODEL_FILE, checks, files_of(out / MODEL_FILE)[1:])


def _serialised(part: Part, folder: Path) -> tuple[Path, Path]:
    """The model.xml and model.bin of a model in a folder of its own."""
    folder.mkdir()
    part.model.set_rt_info(json.dumps(dict(part.metadata)), KEY)
    return serialised(part.model, folder)


def files_of(path: Path) -> tuple[Path, ...]:
    """The files of the artefact of a model.xml: itself, its weights, its further models. Without verification."""
    return _sealed(path)[1]


def verify(path: Path) -> tuple[str, ...]:
    """The names of the further models of a model.xml. Raises ArtefactError if a file is missing or damaged."""
    content, (_, *others), wanted = _sealed(path)
    for file in others:
        if not file.is_file():
            missing = f"its weights {file.name} are" if file.name == DATA_FILE else f"its part {file.name} is"
            raise ArtefactError(f"{missing} missing", where=str(path), hint="move all its files together")
    if (got := _digest(content, others)) != wanted:
        names = " or ".join(file.name for file in others)
        raise ArtefactError(
            f"it or {names} is damaged, or was changed: the sha256 is {got}, wanted {wanted}",
            where=str(path),
            hint="export the model again",
        )
    return tuple(file.name for file in others[1:])


def read(path: Path, data: Path) -> Part:
    """A model of a verified artefact, with its weights in `data`. Raises ArtefactError."""
    try:
        model = core().read_model(str(path), str(data))
        text: Any = model.get_rt_info(KEY).astype(str)
    except RuntimeError as error:
        raise ArtefactError(f"OpenVINO does not read it: {reason(error)}", where=str(path)) from error
    damaged = "its metadata are damaged"
    return Part(model, parse_json(text, path, ArtefactError, dict[str, str], problem=damaged, hint=""))


def _sealed(path: Path) -> tuple[bytes, tuple[Path, ...], str]:
    """The content of a model.xml without its last comment; the files and the digest that the comment tells."""
    content = read_bytes(path, ArtefactError, largest=LARGEST)
    seal = _SEAL.search(content)
    if seal is None:
        raise ArtefactError(
            "this model.xml was not written by flashir, or not all of it", where=str(path), hint="export it again"
        )
    names = [path.with_suffix(".bin").name, *seal[2].decode().split()]
    return content[: seal.start()], (path, *map(path.with_name, names)), seal[1].decode()


def _digest(content: bytes, files: Iterable[Path]) -> str:
    return hashlib.sha256(content + "".join(map(sha256, files)).encode()).hexdigest()


def _copy(source: Path) -> Callable[[BinaryIO], object]:
    def write_to(file: BinaryIO) -> None:
        with source.open("rb") as content:
            shutil.copyfileobj(content, file)

    return write_to
