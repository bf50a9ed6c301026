"""The zip archive of `torch.export`: sealed with a digest, and read only if it contains no code.

The digest of all preceding bytes is the comment at the end of the zip, which other readers ignore. It covers the
padding between files too.

A digest detects damage, but not malice. The loader of PyTorch may run code from an archive: pickled objects, any
operator, and symbolic sizes, which it evaluates as Python. So before loading, every file in the archive must be one
that plain tensors need, every tensor must match its bytes, and the program must be one that an export could have
written (`flashir_torch.program`).
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch.export.pt2_archive import PT2ArchiveReader
from torch.export.pt2_archive.constants import EXTRA_DIR

from flashir.errors import ArtefactError
from flashir.files.atomic import expect_digest
from flashir.files.foreign import guarded, opened, parse_json
from flashir_torch.program import TRUST, check_program
from flashir_torch.schema import ITEM_BYTES, Nothings, Payload, Payloads

PREFIX = b"flashir.sha256="
DIGITS = 64
BLOCK = 2**20

WEIGHTS = "data/weights/"
_MEMBER = re.compile(
    r"(data/weights/(weight_\d+|model_weights_config\.json)|data/constants/model_constants_config\.json"
    r"|models/model\.json|data/sample_inputs/model\.pt|extra/flashir\.[a-z0-9_.]+"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id))\Z"
)
_UNREAD = "the archive cannot be read"


@contextmanager
def unbroken(file: BinaryIO) -> Iterator[BinaryIO]:
    """A file for PyTorch to write to. Its write errors are raised at the end.

    PyTorch writes again while it handles a write error, and a second error there ends the process.
    """
    sink = _Sink(file)
    yield cast(BinaryIO, sink)
    if sink.error is not None:
        raise sink.error


class _Sink(io.RawIOBase):
    """A file that stores the first error, including interrupts, and ignores later writes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: BaseException | None = None

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        return place  # PyTorch seeks to the start at the end

    def write(self, content: Any) -> int:
        if self.error is None:
            try:
                self._file.write(content)
            except BaseException as error:
                self.error = error
        return len(content)


def seal(file: BinaryIO) -> None:
    """Append the digest to a finished zip. Raises ArtefactError if it already has a comment."""
    path = Path(file.name)
    file.flush()
    end = file.seek(0, io.SEEK_END)
    with path.open("rb") as written:
        written.seek(end - 2)
        if written.read(2) != b"\0\0":
            raise ArtefactError("the archive has a comment, where its digest should go", where=str(path))
    file.seek(end - 2)
    file.write((len(PREFIX) + DIGITS).to_bytes(2, "little") + PREFIX)
    file.flush()
    with path.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    file.write(digest.encode())


def check_seal(path: Path) -> None:
    """Raise ArtefactError if the file is missing, truncated, changed, or was never sealed."""
    with opened(path, ArtefactError) as file:
        end = file.seek(0, io.SEEK_END)
        file.seek(max(end - DIGITS - len(PREFIX), 0))
        prefix, expected = file.read(len(PREFIX)), file.read().decode("ascii", "replace")
        if prefix != PREFIX:
            raise ArtefactError(
                "this is not a PyTorch artefact of flashir, or it is truncated",
                where=str(path),
                hint="export the model again",
            )
        file.seek(0)
        actual = _digest(file, end - DIGITS)
    expect_digest(expected, actual, path)


def extra_files(path: Path) -> dict[str, str]:
    """Verify an archive, and return its extra files as texts. Raises the errors of `check_seal`."""
    check_seal(path)
    with guarded(path, ArtefactError, _UNREAD), PT2ArchiveReader(str(path)) as archive:
        names = [name for name in _sizes(archive, path) if name.startswith(EXTRA_DIR)]
        return {name.removeprefix(EXTRA_DIR): archive.read_string(name) for name in names}


def check_content(path: Path) -> None:
    """Raise ArtefactError that lists everything in the archive other than tensors and a program.

    It uses the reader of PyTorch's loader, since another reader might find other content in a crafted archive.
    """
    with guarded(path, ArtefactError, _UNREAD), PT2ArchiveReader(str(path)) as archive:
        sizes = _sizes(archive, path)
        if foreign := [name for name in sizes if not _MEMBER.match(name)]:
            raise ArtefactError(
                [f"it holds {name!r}, which no program needs" for name in foreign], where=str(path), hint=TRUST
            )
        config = archive.read_bytes(f"{WEIGHTS}model_weights_config.json")
        weights = parse_json(config, path, ArtefactError, Payloads, problem="its tensors are not plain", hint=TRUST)
        problems = list(_of_weights(weights.config, sizes))
        config = archive.read_bytes("data/constants/model_constants_config.json")
        parse_json(config, path, ArtefactError, Nothings, problem="it has constants", hint=TRUST)
        problems += _of_example(archive.read_bytes("data/sample_inputs/model.pt"))
        if problems:
            raise ArtefactError(problems, where=str(path), hint=TRUST)
        check_program(archive.read_bytes("models/model.json"), path)


def _digest(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def _sizes(archive: PT2ArchiveReader, path: Path) -> dict[str, int]:
    """The size of each file in an archive. Raises ArtefactError for compressed files, whose size is unbounded."""
    sizes = {name: archive.archive_file.get_record_size(name) for name in archive.get_file_names()}
    if sum(sizes.values()) > path.stat().st_size:
        raise ArtefactError("its files are larger than it is", where=str(path), hint=TRUST)
    return sizes


def _of_weights(config: Mapping[str, Payload], sizes: Mapping[str, int]) -> Iterator[str]:
    """Problems of the tensors: each must be contiguous and match its bytes exactly."""
    for name, payload in config.items():
        meta = payload.tensor_meta
        if payload.use_pickle or meta is None:
            yield f"the tensor {name!r} is pickled"
            continue
        shape, strides = ([number.as_int for number in part] for part in (meta.sizes, meta.strides))
        known = [size for size in shape if size is not None]
        rows = [prod(max(size, 1) for size in known[axis + 1 :]) for axis in range(len(shape))]
        size = prod(known) * ITEM_BYTES[meta.dtype]
        if size != sizes.get(WEIGHTS + payload.path_name) or strides != rows or meta.storage_offset.as_int != 0:
            yield f"the tensor {name!r} does not match its bytes"


def _of_example(content: bytes) -> Iterator[str]:
    """Problems of the example inputs that the program was traced with."""
    match torch.load(io.BytesIO(content), weights_only=True):
        case (tuple(inputs), dict(named)) if not named and all(type(x) is torch.Tensor for x in inputs):
            if any(x.nbytes > x.untyped_storage().nbytes() or x.device.type != "cpu" for x in inputs):
                yield "an input of its example is larger than its bytes"
        case _:
            yield "its example is not a tuple of tensors"
