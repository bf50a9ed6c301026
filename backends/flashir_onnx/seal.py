"""The digests that guard a file of an artefact, in its metadata.

That of the data file beside it stands there, and that of the file itself, which is taken with the digest written as
zeros; so no bit of either can flip unseen, be it in a weight or a node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # onnx's own dependency
from onnx import ModelProto, helper

from flashir.errors import ArtefactError
from flashir.files import reading, sha256

MODEL, DIGEST, DATA_DIGEST = "flashir.model", "flashir.sha256", "flashir.data.sha256"
_NO_DIGEST = "0" * 64


def sealed(model: ModelProto, metadata: Mapping[str, str]) -> tuple[bytes, str]:
    """A model with its metadata as the content of a file, and the digest that is filled in."""
    helper.set_model_props(model, {**metadata, DIGEST: _NO_DIGEST})
    content = model.SerializeToString()
    digest = hashlib.sha256(content).hexdigest()
    return bytes(_replaced(bytearray(content), _NO_DIGEST, digest)), digest


class Reader:
    """Reads the metadata of files and verifies them; each data file once, however many files name it."""

    def __init__(self) -> None:
        self._digests: dict[Path, str] = {}

    def metadata(self, path: Path) -> dict[str, str]:
        """The metadata of a file, after both digests have been verified.

        Raises:
            ArtefactError: a file is missing, cannot be read, was not written by flashir, or is damaged.
        """
        with reading(path):
            content = bytearray(path.read_bytes())
        model = parse(content, path)
        metadata = properties(model)
        if MODEL not in metadata or DIGEST not in metadata:
            raise ArtefactError(
                "this ONNX model carries no flashir model", where=str(path), mend="export it with flashir"
            )
        digest = metadata[DIGEST]
        _expect(digest, hashlib.sha256(_replaced(content, digest, _NO_DIGEST)).hexdigest(), path)
        for location in sorted(data_files(model)):
            data = path.with_name(Path(location).name)
            if not data.is_file():
                raise ArtefactError(f"its data file {data.name} is missing", where=str(path), mend="move both together")
            if data not in self._digests:
                self._digests[data] = sha256(data)
            _expect(metadata.get(DATA_DIGEST, "none"), self._digests[data], data)
        return metadata


def parse(content: bytes | bytearray, path: Path) -> ModelProto:
    """The model in a file. Raises ArtefactError where there is none."""
    try:
        return onnx.load_model_from_string(bytes(content))
    except DecodeError as error:
        raise ArtefactError("this is no ONNX model, or not all of one", where=str(path)) from error


def properties(model: ModelProto) -> dict[str, str]:
    """The metadata of a model."""
    return {each.key: each.value for each in model.metadata_props}


def data_files(model: ModelProto) -> set[str]:
    """The files in which a model has weights."""
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return {entry.value for entry in entries if entry.key == "location"}


def _replaced(content: bytearray, old: str, new: str) -> bytearray:
    """In place. As protobuf writes an entry, the value follows the key after two bytes: its field and its length."""
    start = content.rfind(DIGEST.encode() + b"\x12\x40" + old.encode())
    if start >= 0:
        value = start + len(DIGEST) + 2
        content[value : value + len(new)] = new.encode()
    return content


def _expect(wanted: str, got: str, path: Path) -> None:
    if got != wanted:
        raise ArtefactError(
            f"the file is damaged, or was changed: its sha256 is {got}, wanted {wanted}",
            where=str(path),
            mend="export the model again",
        )
