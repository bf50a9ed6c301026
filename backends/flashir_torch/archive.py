"""The archive that `torch.export` writes: a zip. Sealed with a digest, and read only where it holds no code.

The digest of all bytes before it stands at the end, as the comment of the zip, which other readers show or ignore.
No bit can flip unseen: neither in a weight nor between the files, where PyTorch pads.

A digest tells damage, not intent. PyTorch warns that its loader may run what an archive says: pickled objects, any
operator, and symbolic sizes, which it evaluates as python. So before the loader sees an archive, every file in it must
be one that plain tensors need, every tensor as large as its bytes, and the program one that an export could have
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
    """A file for PyTorch to write to, which takes whatever comes; at the end it raises what writing has raised.

    PyTorch writes once more while it unwinds, and where that raises too, it ends the process.
    """
    sink = _Sink(file)
    yield cast(BinaryIO, sink)
    if sink.error is not None:
        raise sink.error


class _Sink(io.RawIOBase):
    """A file that keeps the first error, an interrupt too, and is written to no more."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: BaseException | None = None

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        return place  # PyTorch goes back to the start at the end

    def write(self, content: Any) -> int:
        if self.error is None:
            try:
                self._file.write(content)
            except BaseException as error:
                self.error = error
        return len(content)


def seal(file: BinaryIO) -> None:
    """Write the digest of a finished zip behind it. Raises ArtefactError where it has a comment already."""
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
    """Raises ArtefactError where the file is missing, cut, changed, or was never sealed."""
    with opened(path, ArtefactError) as file:
        end = file.seek(0, io.SEEK_END)
        file.seek(max(end - DIGITS - len(PREFIX), 0))
        prefix, wanted = file.read(len(PREFIX)), file.read().decode("ascii", "replace")
        if prefix != PREFIX:
            raise ArtefactError(
                "this is no PyTorch artefact of flashir, or not all of one",
                where=str(path),
                hint="export the model again",
            )
        file.seek(0)
        got = _digest(file, end - DIGITS)
    if got != wanted:
        raise ArtefactError(
            f"the file is damaged, or was changed: its sha256 is {got}, wanted {wanted}",
            where=str(path),
            hint="export the model again",
        )


def extra_files(path: Path) -> dict[str, str]:
    """The texts that an archive carries beside its program, its digest verified. Raises as `check_seal`."""
    check_seal(path)
    with guarded(path, ArtefactError, _UNREAD), PT2ArchiveReader(str(path)) as archive:
        names = [name for name in _sizes(archive, path) if name.startswith(EXTRA_DIR)]
        return {name.removeprefix(EXTRA_DIR): archive.read_string(name) for name in names}


def check_content(path: Path) -> None:
    """Raises ArtefactError where the archive holds more than tensors and a program: every such thing.

    It is read by the reader that the loader has, for another would find other files under the same names in an
    archive that was made to say two things.
    """
    with guarded(path, ArtefactError, _UNREAD), PT2ArchiveReader(str(path)) as archive:
        sizes = _sizes(archive, path)
        if strange := [name for name in sizes if not _MEMBER.match(name)]:
            raise ArtefactError(
                [f"it holds {name!r}, which no program needs" for name in strange], where=str(path), hint=TRUST
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
    """The bytes of each file in an archive. Raises ArtefactError where they are packed, for they may be any number."""
    sizes = {name: archive.archive_file.get_record_size(name) for name in archive.get_file_names()}
    if sum(sizes.values()) > path.stat().st_size:
        raise ArtefactError("its files are larger than it is", where=str(path), hint=TRUST)
    return sizes


def _of_weights(config: Mapping[str, Payload], sizes: Mapping[str, int]) -> Iterator[str]:
    """What is wrong with the tensors: each must be what its bytes are, no more and no less, row by row."""
    for name, payload in config.items():
        meta = payload.tensor_meta
        if payload.use_pickle or meta is None:
            yield f"the tensor {name!r} is pickled"
            continue
        shape, strides = ([each.as_int for each in part] for part in (meta.sizes, meta.strides))
        known = [size for size in shape if size is not None]
        rows = [prod(max(size, 1) for size in known[axis + 1 :]) for axis in range(len(shape))]
        size = prod(known) * ITEM_BYTES[meta.dtype]
        if size != sizes.get(WEIGHTS + payload.path_name) or strides != rows or meta.storage_offset.as_int != 0:
            yield f"the tensor {name!r} is another one than its bytes"


def _of_example(content: bytes) -> Iterator[str]:
    """What is wrong with the inputs that the program was traced with."""
    match torch.load(io.BytesIO(content), weights_only=True):
        case (tuple(inputs), dict(named)) if not named and all(type(each) is torch.Tensor for each in inputs):
            if any(each.nbytes > each.untyped_storage().nbytes() or each.device.type != "cpu" for each in inputs):
                yield "an input of its example is larger than its bytes"
        case _:
            yield "its example is no tuple of tensors"
