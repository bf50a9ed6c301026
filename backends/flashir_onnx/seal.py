"""The digests in the metadata of a model file, to detect damage.

There is a digest of the data file, and one of the model file itself, computed with zeros in place of this digest.
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

from flashir.backends.protocols import MODEL_TEXT
from flashir.errors import ArtefactError, ForeignError
from flashir.files.atomic import expect_digest, sha256
from flashir.files.foreign import guarded, read_bytes
from flashir_onnx.verify import size_inlined

DIGEST, DATA_DIGEST = "flashir.sha256", "flashir.data.sha256"
DATA_NAME = re.compile(r"model-[0-9a-f]{12}\.data")
LARGEST = 2**31
"""Most bytes of a model: the limit of protobuf."""

MOST_NODES = 2**21
"""Most nodes of a model, functions inlined: ten thousand layers have a million."""

EXPORT_AGAIN = "export the model again"
_NO_DIGEST = "0" * 64


def sealed(model: ModelProto, metadata: Mapping[str, str]) -> tuple[bytes, str]:
    """Serialise a model with its metadata. Returns the content of the file and its digest."""
    helper.set_model_props(model, {**metadata, DIGEST: _NO_DIGEST})
    content = model.SerializeToString()
    digest = hashlib.sha256(content).hexdigest()
    return bytes(_replaced(bytearray(content), _NO_DIGEST, digest)), digest


class Reader:
    """Reads and verifies model files. A shared data file is verified only once."""

    def __init__(self) -> None:
        self._digests: dict[Path, str] = {}

    def metadata(self, path: Path) -> dict[str, str]:
        """Verify both digests of a file, and return its metadata.

        Raises:
            ArtefactError: a file is missing, cannot be read, or is damaged; ForeignError: flashir did not write it.
        """
        content = bytearray(read_bytes(path, ArtefactError, largest=LARGEST))
        model = parse(content, path)
        if twice := [key for key, times in Counter(entry.key for entry in model.metadata_props).items() if times > 1]:
            raise ArtefactError(f"its metadata have {twice[0]!r} twice", where=str(path), hint=EXPORT_AGAIN)
        metadata = properties(model)
        if MODEL_TEXT not in metadata or DIGEST not in metadata:
            raise ForeignError(
                "this ONNX model contains no flashir model",
                where=str(path),
                hint="export it with flashir, or import it",
            )
        digest = metadata[DIGEST]
        expect_digest(digest, hashlib.sha256(_replaced(content, digest, _NO_DIGEST)).hexdigest(), path)
        for location, end in sorted(_data_ends(model, path).items()):
            data = path.with_name(location)
            if not data.is_file():
                raise ArtefactError(f"its data file {location} is missing", where=str(path), hint="move both together")
            if data not in self._digests:
                self._digests[data] = sha256(data)
            expect_digest(metadata.get(DATA_DIGEST, "none"), self._digests[data], data)
            if (size := data.stat().st_size) < end:
                raise ArtefactError(
                    f"it refers to byte {end} of {location}, which has {size}", where=str(path), hint=EXPORT_AGAIN
                )
        return metadata


def parse(content: bytes | bytearray, path: Path) -> ModelProto:
    """Parse an ONNX model. Raises ArtefactError."""
    with guarded(path, ArtefactError, "this is no ONNX model, or not all of one"):
        model = onnx.load_model_from_string(bytes(content))
    with guarded(path, ArtefactError, "its functions cannot be inlined"):
        if model.functions and (nodes := size_inlined(model)) > MOST_NODES:
            raise ArtefactError(f"its functions stand for {nodes:,} nodes, more than {MOST_NODES:,}", where=str(path))
    return model


def parsed_file(path: Path) -> ModelProto:
    """Read and parse an ONNX model. Raises ArtefactError."""
    return parse(read_bytes(path, ArtefactError, largest=LARGEST), path)


def properties(model: ModelProto) -> dict[str, str]:
    """The metadata of a model."""
    return {entry.key: entry.value for entry in model.metadata_props}


def data_files(model: ModelProto, path: Path) -> set[str]:
    """The data files of a model. Raises ArtefactError for a weight in any other file."""
    return set(_data_ends(model, path))


def _data_ends(model: ModelProto, path: Path) -> dict[str, int]:
    """The data files of a model, and the least size of each in bytes.

    External weights must be initializers of the graph, in a file next to the model with a name of flashir. Otherwise
    runtimes might read other files than those verified.

    Raises:
        ArtefactError: a weight is stored elsewhere.
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
        if not known or not all(re.fullmatch("[0-9]{1,18}", number) for number in (offset, length)):
            raise ArtefactError(
                f"the weight {tensor.name!r} is not in a data file next to it",
                where=str(path),
                hint=EXPORT_AGAIN,
            )
        ends[location] = max(ends.get(location, 0), int(offset) + int(length))
    if external_entries(model) != ours:
        raise ArtefactError("it has external weights outside its graph", where=str(path), hint=EXPORT_AGAIN)
    return ends


def external_entries(part: Message) -> int:
    """The number of external-data entries anywhere in a model, including nodes, functions and bodies."""
    count = 0
    pending = [part]
    while pending:
        message = pending.pop()
        if isinstance(message, TensorProto):
            count += len(message.external_data)
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                pending += [value] if isinstance(value, Message) else list(value)
    return count


def _replaced(content: bytearray, old: str, new: str) -> bytearray:
    """Replace the digest in place. In protobuf, the value follows the key after two bytes: its field and its length."""
    start = content.rfind(DIGEST.encode() + b"\x12\x40" + old.encode())
    if start >= 0:
        value = start + len(DIGEST) + 2
        content[value : value + len(new)] = new.encode()
    return content
