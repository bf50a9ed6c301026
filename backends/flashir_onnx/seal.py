"""The digests that guard a file of an artefact, in its metadata.

That of the data file beside it stands there, and that of the file itself, which is taken with the digest written as
zeros; so no bit of either can flip unseen, be it in a weight or a node.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]  # onnx's own dependency
from onnx import ModelProto, TensorProto, helper

from flashir.errors import ArtefactError
from flashir.files.atomic import sha256
from flashir.files.foreign import guarded, read_bytes

MODEL, DIGEST, DATA_DIGEST = "flashir.model", "flashir.sha256", "flashir.data.sha256"
DATA_NAME = re.compile(r"model-[0-9a-f]{12}\.data")
LARGEST = 2**31
"""Bytes of a model: protobuf itself ends there."""

ANEW = "export the model again"
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
        content = bytearray(read_bytes(path, ArtefactError, largest=LARGEST))
        model = parse(content, path)
        if twice := [key for key, times in Counter(each.key for each in model.metadata_props).items() if times > 1]:
            raise ArtefactError(f"its metadata say {twice[0]!r} twice", where=str(path), hint=ANEW)
        metadata = properties(model)
        if MODEL not in metadata or DIGEST not in metadata:
            raise ArtefactError(
                "this ONNX model carries no flashir model", where=str(path), hint="export it with flashir"
            )
        digest = metadata[DIGEST]
        _expect(digest, hashlib.sha256(_replaced(content, digest, _NO_DIGEST)).hexdigest(), path)
        for location, end in sorted(_data_ends(model, path).items()):
            data = path.with_name(location)
            if not data.is_file():
                raise ArtefactError(f"its data file {location} is missing", where=str(path), hint="move both together")
            if data not in self._digests:
                self._digests[data] = sha256(data)
            _expect(metadata.get(DATA_DIGEST, "none"), self._digests[data], data)
            if (size := data.stat().st_size) < end:
                raise ArtefactError(
                    f"it refers to byte {end} of {location}, which has {size}", where=str(path), hint=ANEW
                )
        return metadata


def parse(content: bytes | bytearray, path: Path) -> ModelProto:
    """The model in a file. Raises ArtefactError where there is none."""
    with guarded(path, ArtefactError, "this is no ONNX model, or not all of one"):
        return onnx.load_model_from_string(bytes(content))


def parsed_file(path: Path) -> ModelProto:
    """The model in a file that is read. Raises ArtefactError."""
    return parse(read_bytes(path, ArtefactError, largest=LARGEST), path)


def properties(model: ModelProto) -> dict[str, str]:
    """The metadata of a model."""
    return {each.key: each.value for each in model.metadata_props}


def data_files(model: ModelProto, path: Path) -> set[str]:
    """The files in which a model has weights. Raises ArtefactError where they are none of ours."""
    return set(_data_ends(model, path))


def _data_ends(model: ModelProto, path: Path) -> dict[str, int]:
    """The data files of a model, and how many bytes each must have.

    Every weight outside is one of the graph, in a file beside the model that has a name of ours: so that what is
    verified is what runtimes read. They look for others elsewhere, each in its own way.

    Raises:
        ArtefactError: a weight lies somewhere else.
    """
    ends: dict[str, int] = {}
    ours = 0
    for tensor in model.graph.initializer:
        if not tensor.external_data:
            continue
        ours += len(tensor.external_data)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location, offset, length = (entries.get(key, "") for key in ("location", "offset", "length"))
        known = len(tensor.external_data) == len(entries) == 3 and DATA_NAME.fullmatch(location)
        if not known or not all(re.fullmatch("[0-9]{1,18}", each) for each in (offset, length)):
            raise ArtefactError(
                f"the weight {tensor.name!r} lies somewhere else than in a data file beside it",
                where=str(path),
                hint=ANEW,
            )
        ends[location] = max(ends.get(location, 0), int(offset) + int(length))
    if _outside(model) != ours:
        raise ArtefactError("it has weights outside that are none of its graph", where=str(path), hint=ANEW)
    return ends


def _outside(part: Message) -> int:
    """How many entries of data outside there are anywhere in a model: in nodes, functions and bodies too."""
    count = 0
    waiting = [part]
    while waiting:
        each = waiting.pop()
        if isinstance(each, TensorProto):
            count += len(each.external_data)
            continue
        for field, value in each.ListFields():
            if field.message_type is not None:
                waiting += [value] if isinstance(value, Message) else list(value)
    return count


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
            hint="export the model again",
        )
