"""What a file is that was given for another: told by how it begins, else by its name, and what to do with it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

from flashir.errors import option

HEAD = 16
"""Bytes of a file that tell what it is."""


@dataclass(frozen=True)
class FileKind:
    """A kind of file.

    Args:
        what: such as `a PyTorch checkpoint`.
        as_parameters: what to do with one that was given for parameters.
        as_model: what to do with one that was given for a model; nothing where it is no part of one either.
    """

    what: str
    as_parameters: str
    as_model: str = ""


_TORCH = FileKind(
    "a PyTorch pickle",
    "save it as safetensors: safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'p.safetensors'); "
    "where it holds more than tensors, such as a 'state_dict', take that",
    "save its tensors as safetensors, and give them with {params}",
)
_NUMPY = FileKind(
    "a file of numpy",
    "save it as safetensors: flashir.save_params(dict(numpy.load(FILE)), 'p.safetensors')",
    "save its arrays with flashir.save_params, and give them with {params}",
)
_SAFETENSORS = FileKind("a file of parameters", "", "give it with {params}, and a model beside it")
_GGUF = FileKind("a GGUF file", "take the parameters that it was made from, as safetensors")
_ONNX = FileKind("an ONNX model", "give the safetensors file, or the checkpoint, that it was exported from")
_PROGRAM = FileKind("a PyTorch program", "give the safetensors file, or the checkpoint, that it was exported from")
_HDF5 = FileKind("an HDF5 file", "save its arrays as safetensors, by full name: flashir.save_params")
_MSGPACK = FileKind("a file of msgpack, as Flax writes it", "save its arrays by full name: flashir.save_params")
_FIR = FileKind("the text of a model", "give it as MODEL, and parameters as a safetensors file")
_ZIP = FileKind("a zip archive", "unpack it")

_BEGINNINGS = ((b"GGUF", _GGUF), (b"\x89HDF\r\n", _HDF5), (b"\x93NUMPY", _NUMPY))
_NAMES = {
    ".pt": _TORCH, ".pth": _TORCH, ".bin": _TORCH, ".ckpt": _TORCH, ".pkl": _TORCH, ".pickle": _TORCH,
    ".npz": _NUMPY, ".npy": _NUMPY, ".gguf": _GGUF, ".onnx": _ONNX, ".pt2": _PROGRAM, ".h5": _HDF5, ".hdf5": _HDF5,
    ".msgpack": _MSGPACK, ".fir": _FIR,
}  # fmt: skip
_TEXT = frozenset((*b"\t\n\r", *range(0x20, 0x7F)))


def kind_of(path: Path, head: bytes) -> FileKind | None:
    """What a file is; None where it begins as a safetensors file does, or nothing is known of it.

    Args:
        path: the file; of an archive, the names inside are looked at.
        head: its first HEAD bytes.
    """
    if is_safetensors(head):
        return None
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    if head.startswith(b"PK\x03\x04"):
        return _in_archive(path)
    if len(head) > 1 and head[0] == 0x80 and head[1] <= 5:  # the first opcode of a pickle, and its protocol
        return _TORCH
    return _NAMES.get(path.suffix.lower())


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins as a safetensors file does: a length that is possible, and a table."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def given_as_model(path: Path) -> FileKind | None:
    """What a file is that was given for the text of a model; None where it may be one, or is no file."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return None
    if all(byte in _TEXT for byte in head):
        return None
    found = _SAFETENSORS if is_safetensors(head) else kind_of(path, head)
    return found and replace(found, as_model=found.as_model.format(params=option("params", "")))


def _in_archive(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return _NAMES.get(path.suffix.lower(), _ZIP)
    if any(name.endswith("data.pkl") for name in names):
        return _TORCH
    if any(name.endswith("models/model.json") for name in names):
        return _PROGRAM
    return _NUMPY if names and all(name.endswith(".npy") for name in names) else _ZIP
