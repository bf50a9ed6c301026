"""The artefact on disk: `model.onnx` and its further files.

Large weights are in `model-<digest>.data` next to it. A decoder is a further model, `decoder.onnx`, or two:
`prefill.onnx` and `step.onnx`. model.onnx holds their digests, so it alone identifies the artefact.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from flashir.backends.protocols import DECODER_PARTS, Written
from flashir.errors import ArtefactError
from flashir.files.atomic import UNFINISHED, atomic_files, atomic_write, in_folder, locked, unfinished
from flashir.files.foreign import parse_json
from flashir_onnx.emit import Emitted
from flashir_onnx.seal import DATA_DIGEST, DIGEST, EXPORT_AGAIN, Reader, data_files, parsed_file, properties, sealed
from flashir_onnx.verify import verify
from flashir_onnx.weights import DataFile

MODEL_FILE, DECODER_FILE = "model.onnx", "decoder.onnx"
PREFILL_FILE, STEP_FILE = "prefill.onnx", "step.onnx"
PART_FILES = frozenset((DECODER_FILE, PREFILL_FILE, STEP_FILE))
PARTS = DECODER_PARTS
"""The metadata key of model.onnx for the digests of further files by name, as a JSON object."""

_OURS = re.compile(
    rf"model-[0-9a-f]{{12}}\.data|\.(model|decoder|prefill|step)(\.onnx|-[0-9a-f]{{12}}\.data)\.[0-9a-f]+{UNFINISHED}"
)


@dataclass(frozen=True)
class Part:
    """One model of an artefact, with its metadata."""

    emitted: Emitted
    metadata: Mapping[str, str]


def write(parts: Mapping[str, Part], out: Path, check: Callable[[Mapping[str, Path]], object] | None = None) -> Written:
    """Write and verify an artefact, and then commit it.

    The name of the data file contains its digest, so writing it does not affect an existing artefact. Renaming
    model.onnx commits everything: the files that it names are on disk by then, at worst under temporary names, which
    the next reader renames (`finish_commit`). So a kill at any moment leaves the old artefact or the new one. The next
    export removes other leftovers.

    Args:
        parts: the models by file name, model.onnx first. Several models always share a data file.
        out: the folder; created if missing.
        check: called with the paths of the temporary files by name, before the commit.

    Raises:
        ArtefactError: the files cannot be written, or ONNX rejects a model; also the errors of `check`.
    """
    checks: dict[str, tuple[str, ...]] = {}

    def examine(files: Mapping[str, Path]) -> None:
        checks.update({name: verify(file) for name, file in files.items()})
        if check is not None:
            check(files)

    path = out / MODEL_FILE
    with in_folder(out), locked(out):
        try:
            atomic_files(out, _contents(parts, out), examine)
            further = [f"{name}: {checks[name][0]}" for name in part_digests(path)]
            return Written(path, (*checks[MODEL_FILE], *further), files(path)[1:])
        finally:
            _sweep(out)


def read(path: Path) -> dict[str, dict[str, str]]:
    """Read the metadata of model.onnx and of its parts, by file name, and verify every digest.

    Raises:
        ArtefactError: a file is missing, cannot be read, was not written by flashir, or is damaged.
    """
    reader = Reader()
    metadata = {MODEL_FILE: reader.metadata(path)}
    parts = _digests_in(metadata[MODEL_FILE], path)
    if any(_digest(path.with_name(name)) != digest for name, digest in parts.items()):
        with locked(path.parent):
            finish_commit(path.parent)
    for name, digest in parts.items():
        metadata[name] = reader.metadata(path.with_name(name))
        if metadata[name][DIGEST] != digest:
            raise ArtefactError(
                f"it is not the file that {MODEL_FILE} was written with",
                where=str(path.with_name(name)),
                hint="export the model again, and move all its files together",
            )
    return metadata


def part_digests(path: Path) -> dict[str, str]:
    """The digests of the parts of a model.onnx, without verification."""
    return _digests_in(properties(parsed_file(path)), path)


def files(path: Path) -> tuple[Path, ...]:
    """The files of the artefact of a model.onnx: itself, its parts, then data files. Without verification."""
    model = parsed_file(path)
    others = (*_digests_in(properties(model), path), *sorted(data_files(model, path)))
    return (path, *(path.with_name(name) for name in others))


def finish_commit(out: Path) -> None:
    """Finish the commit of a killed writer: rename the temporary files of the parts of model.onnx."""
    for name, digest in part_digests(out / MODEL_FILE).items():
        if _digest(out / name) != digest:
            for leftover in unfinished(out / name):
                if _digest(leftover) == digest:
                    leftover.replace(out / name)


def _contents(parts: Mapping[str, Part], out: Path) -> dict[str, Callable[[BinaryIO], object]]:
    """The content of each model file. Writes the data file."""
    weights = [part.emitted.weights for part in parts.values()]
    entries: dict[str, str] = {}
    if len(parts) == 1 and weights[0].fit_inside:
        models = {name: part.emitted.weights.fill(part.emitted.model) for name, part in parts.items()}
    else:
        data = DataFile(weights)
        digest = data.sha256()
        path = out / f"model-{digest[:12]}.data"
        atomic_write(path, data.write, alone=True)
        entries[DATA_DIGEST] = digest
        models = {name: data.refer(part.emitted.model, part.emitted.weights, path.name) for name, part in parts.items()}
    contents: dict[str, bytes] = {}
    digests: dict[str, str] = {}
    for name in reversed(list(parts)):  # model.onnx last, because it holds the digests of the others
        more = {PARTS: json.dumps(digests)} if digests else {}
        contents[name], digests[name] = sealed(models[name], {**parts[name].metadata, **entries, **more})
    return {name: _writer(contents[name]) for name in parts}


def _digests_in(metadata: Mapping[str, str], path: Path) -> dict[str, str]:
    """The digests of the parts by name. Raises ArtefactError for a part that a decoder does not have."""
    problem = f"its metadata {PARTS} is damaged"
    parts = parse_json(
        metadata.get(PARTS, "{}"), path, ArtefactError, dict[str, str], problem=problem, hint=EXPORT_AGAIN
    )
    if unknown := parts.keys() - PART_FILES:
        raise ArtefactError(f"it has a part {sorted(unknown)[0]!r}", where=str(path), hint=EXPORT_AGAIN)
    return parts


def _writer(content: bytes) -> Callable[[BinaryIO], object]:
    return lambda file: file.write(content)


def _digest(path: Path) -> str | None:
    """The digest in the metadata of a file; None if it has none or does not exist."""
    with suppress(ArtefactError):
        return properties(parsed_file(path)).get(DIGEST)
    return None


def _sweep(out: Path) -> None:
    """Remove leftovers of earlier exports: unused parts and data files, and temporary files."""
    path = out / MODEL_FILE
    used: set[str] = set()
    with suppress(OSError, ArtefactError):  # an unreadable model may use any of them
        if path.exists():
            finish_commit(out)
            model = parsed_file(path)
            used = data_files(model, path)
            for name in PART_FILES - _digests_in(properties(model), path).keys():
                if _digest(out / name) is not None:
                    (out / name).unlink()
        for file in out.iterdir():
            if _OURS.fullmatch(file.name) and file.name not in used:
                file.unlink(missing_ok=True)
