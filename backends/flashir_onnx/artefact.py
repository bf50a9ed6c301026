"""The artefact on disk: `model.onnx`, and `model-<digest>.data` beside it where the weights are large.

Two digests guard it. That of the data file stands in the metadata. That of model.onnx stands there too, and is taken
of the file with the digest itself written as zeros; so no bit of either can flip unseen, be it in a weight or a node.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # onnx's own dependency
from onnx import ModelProto, helper

from flashir.backend import Run
from flashir.errors import ArtefactError
from flashir.files import UNFINISHED, atomic_write, locked, reading, sha256, writing
from flashir_onnx.emit import Emitted
from flashir_onnx.session import Session
from flashir_onnx.verify import verify

MODEL_FILE = "model.onnx"
MODEL, DIGEST, DATA_DIGEST = "flashir.model", "flashir.sha256", "flashir.data.sha256"
_NO_DIGEST = "0" * 64
_OURS = re.compile(rf"model-[0-9a-f]{{12}}\.data|\.model(\.onnx|-[0-9a-f]{{12}}\.data)\.[0-9a-f]+{UNFINISHED}")


def write(
    emitted: Emitted, metadata: Mapping[str, str], out: Path, check: Callable[[Run], object] | None = None
) -> Path:
    """Write, verify and only then commit an artefact. Returns the path of its `model.onnx`.

    The data file has a name that no other content has, so writing it harms no artefact that is there; renaming
    model.onnx into place commits both. A kill at any moment leaves the old artefact or the new one, and what else it
    leaves the next export removes.

    Raises:
        ArtefactError: the files cannot be written, or ONNX refuses the model; and what `check` raises.
    """
    path, weights = out / MODEL_FILE, emitted.weights
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        try:
            if weights.fit_inside:
                model = weights.fill(emitted.model)
            else:
                digest = weights.sha256()
                data = out / f"model-{digest[:12]}.data"
                atomic_write(data, weights.write)
                model = weights.refer(emitted.model, data.name)
                metadata = {**metadata, DATA_DIGEST: digest}
            helper.set_model_props(model, {**metadata, DIGEST: _NO_DIGEST})
            content = _sealed(model.SerializeToString())

            def examine(unfinished: Path) -> None:
                verify(unfinished)
                if check is not None:
                    check(Session(unfinished, lean=True))

            atomic_write(path, lambda file: file.write(content), check=examine)
        finally:
            _sweep(out)
    return path


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of an artefact, after both digests have been verified.

    Raises:
        ArtefactError: a file is missing, cannot be read, is no artefact of flashir, or is damaged.
    """
    with reading(path):
        content = bytearray(path.read_bytes())
    model = _parse(content, path)
    metadata = {each.key: each.value for each in model.metadata_props}
    if MODEL not in metadata or DIGEST not in metadata:
        raise ArtefactError("this ONNX model carries no flashir model", where=str(path), mend="export it with flashir")
    _expect(metadata[DIGEST], _digest(content, metadata[DIGEST]), path)
    for location in sorted(_data_files(model)):
        data = path.with_name(Path(location).name)
        if not data.is_file():
            raise ArtefactError(f"its data file {data.name} is missing", where=str(path), mend="move both together")
        _expect(metadata.get(DATA_DIGEST, "none"), sha256(data), data)
    return metadata


def _sealed(content: bytes) -> bytearray:
    """The serialised model, its digest filled in."""
    sealed = bytearray(content)
    digest = hashlib.sha256(content).hexdigest()
    _replace_digest(sealed, _NO_DIGEST, digest)
    return sealed


def _digest(content: bytearray, digest: str) -> str:
    """The digest of a serialised model that has the one given filled in."""
    _replace_digest(content, digest, _NO_DIGEST)
    return hashlib.sha256(content).hexdigest()


def _replace_digest(content: bytearray, old: str, new: str) -> None:
    """In place. As protobuf writes an entry, the value follows the key after two bytes: its field and its length."""
    start = content.rfind(DIGEST.encode() + b"\x12\x40" + old.encode())
    if start >= 0:
        value = start + len(DIGEST) + 2
        content[value : value + len(new)] = new.encode()


def _expect(wanted: str, got: str, path: Path) -> None:
    if got != wanted:
        raise ArtefactError(
            f"the file is damaged, or was changed: its sha256 is {got}, wanted {wanted}",
            where=str(path),
            mend="export the model again",
        )


def _parse(content: bytes | bytearray, path: Path) -> ModelProto:
    try:
        return onnx.load_model_from_string(bytes(content))
    except DecodeError as error:
        raise ArtefactError("this is no ONNX model, or not all of one", where=str(path)) from error


def _data_files(model: ModelProto) -> set[str]:
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return {entry.value for entry in entries if entry.key == "location"}


def _sweep(out: Path) -> None:
    """Remove what earlier exports into this folder left: data files that model.onnx does not name, unfinished files."""
    path = out / MODEL_FILE
    with suppress(OSError, ArtefactError):  # a model that cannot be read may name any of them
        named = _data_files(_parse(path.read_bytes(), path)) if path.exists() else set()
        for file in out.iterdir():
            if _OURS.fullmatch(file.name) and file.name not in named:
                file.unlink(missing_ok=True)
