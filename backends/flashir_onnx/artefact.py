"""The artefact on disk: `model.onnx`, and what belongs to it.

Large weights are in `model-<digest>.data` beside it. A decoder is two further models, `prefill.onnx` and `step.onnx`;
model.onnx names them by their digests, so that it alone says what the artefact is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from flashir.errors import ArtefactError
from flashir.files.atomic import UNFINISHED, atomic_files, atomic_write, in_folder, locked, unfinished
from flashir.files.foreign import parse_json
from flashir_onnx.emit import Emitted
from flashir_onnx.seal import ANEW, DATA_DIGEST, DIGEST, Reader, data_files, parsed_file, properties, sealed
from flashir_onnx.verify import verify
from flashir_onnx.weights import DataFile

MODEL_FILE, PREFILL_FILE, STEP_FILE = "model.onnx", "prefill.onnx", "step.onnx"
PARTS = "flashir.parts"
"""In the metadata of model.onnx: a JSON object, the digest of each further file by name."""

_OURS = re.compile(
    rf"model-[0-9a-f]{{12}}\.data|\.(model|prefill|step)(\.onnx|-[0-9a-f]{{12}}\.data)\.[0-9a-f]+{UNFINISHED}"
)


@dataclass(frozen=True)
class Part:
    """One model of an artefact, and what its metadata shall say."""

    emitted: Emitted
    metadata: Mapping[str, str]


def write(parts: Mapping[str, Part], out: Path, check: Callable[[Mapping[str, Path]], object] | None = None) -> Path:
    """Write, verify and only then commit an artefact. Returns the path of its `model.onnx`.

    The data file has a name that no other content has, so writing it harms no artefact that is there. Renaming
    model.onnx into place commits all: what else it names is then on disk, at worst under a temporary name, from which
    the next reader takes it (`settle`). So a kill at any moment leaves the old artefact or the new one, and what else
    it leaves the next export removes.

    Args:
        parts: by the names of their files, model.onnx first. Several always have their weights beside them.
        out: the folder; made where it is missing.
        check: looks at the files, by name, where they are until they are committed.

    Raises:
        ArtefactError: the files cannot be written, or ONNX refuses a model; and what `check` raises.
    """
    with in_folder(out), locked(out):
        try:

            def examine(files: Mapping[str, Path]) -> None:
                for file in files.values():
                    verify(file)
                if check is not None:
                    check(files)

            atomic_files(out, _contents(parts, out), examine)
        finally:
            _sweep(out)
    return out / MODEL_FILE


def read(path: Path) -> dict[str, dict[str, str]]:
    """The metadata of model.onnx and of the parts it names, by file name, once every digest has been verified.

    Raises:
        ArtefactError: a file is missing, cannot be read, is no artefact of flashir, or is damaged.
    """
    reader = Reader()
    found = {MODEL_FILE: reader.metadata(path)}
    wanted = _parts(found[MODEL_FILE], path)
    if any(_digest(path.with_name(name)) != digest for name, digest in wanted.items()):
        with locked(path.parent):
            settle(path.parent)
    for name, digest in wanted.items():
        found[name] = reader.metadata(path.with_name(name))
        if found[name][DIGEST] != digest:
            raise ArtefactError(
                f"it is not the file that {MODEL_FILE} was written with",
                where=str(path.with_name(name)),
                hint="export the model again, and move all its files together",
            )
    return found


def named(path: Path) -> dict[str, str]:
    """The parts that a model.onnx names, and their digests; nothing is verified."""
    return _parts(properties(parsed_file(path)), path)


def beside(path: Path) -> tuple[Path, ...]:
    """The other files of the artefact whose model.onnx this is: parts, then data files. Nothing is verified."""
    model = parsed_file(path)
    return tuple(path.with_name(name) for name in (*_parts(properties(model), path), *sorted(data_files(model, path))))


def settle(out: Path) -> None:
    """Finish what a writer that got killed had committed: the parts that model.onnx names get their names."""
    for name, digest in named(out / MODEL_FILE).items():
        if _digest(out / name) != digest:
            for left in unfinished(out / name):
                if _digest(left) == digest:
                    left.replace(out / name)


def _contents(parts: Mapping[str, Part], out: Path) -> dict[str, Callable[[BinaryIO], object]]:
    """What each file holds, the data file written."""
    weights = [part.emitted.weights for part in parts.values()]
    about: dict[str, str] = {}
    if len(parts) == 1 and weights[0].fit_inside:
        models = {name: part.emitted.weights.fill(part.emitted.model) for name, part in parts.items()}
    else:
        data = DataFile(weights)
        digest = data.sha256()
        path = out / f"model-{digest[:12]}.data"
        atomic_write(path, data.write)
        about[DATA_DIGEST] = digest
        models = {name: data.refer(part.emitted.model, part.emitted.weights, path.name) for name, part in parts.items()}
    contents: dict[str, bytes] = {}
    digests: dict[str, str] = {}
    for name in reversed(list(parts)):  # model.onnx last, for it names the others
        more = {PARTS: json.dumps(digests)} if digests else {}
        contents[name], digests[name] = sealed(models[name], {**parts[name].metadata, **about, **more})
    return {name: _writer(contents[name]) for name in parts}


def _parts(metadata: Mapping[str, str], path: Path) -> dict[str, str]:
    """The parts by name. Raises ArtefactError where there are others than a decoder has."""
    problem = f"what it says of {PARTS} is damaged"
    parts = parse_json(metadata.get(PARTS, "{}"), path, ArtefactError, dict[str, str], problem=problem, hint=ANEW)
    if strange := parts.keys() - {PREFILL_FILE, STEP_FILE}:
        raise ArtefactError(f"it has a part {sorted(strange)[0]!r}", where=str(path), hint=ANEW)
    return parts


def _writer(content: bytes) -> Callable[[BinaryIO], object]:
    return lambda file: file.write(content)


def _digest(path: Path) -> str | None:
    """The digest that a file claims to have; None where it claims none, or there is no such file."""
    with suppress(ArtefactError):
        return properties(parsed_file(path)).get(DIGEST)
    return None


def _sweep(out: Path) -> None:
    """Remove what earlier exports into this folder left: parts and data that nothing names, unfinished files."""
    path = out / MODEL_FILE
    kept: set[str] = set()
    with suppress(OSError, ArtefactError):  # a model that cannot be read may name any of them
        if path.exists():
            settle(out)
            model = parsed_file(path)
            kept = data_files(model, path)
            for name in {PREFILL_FILE, STEP_FILE} - _parts(properties(model), path).keys():
                if _digest(out / name) is not None:
                    (out / name).unlink()
        for file in out.iterdir():
            if _OURS.fullmatch(file.name) and file.name not in kept:
                file.unlink(missing_ok=True)
