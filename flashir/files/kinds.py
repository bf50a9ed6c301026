"""Recognise a file of the wrong kind by its first bytes or its name, and say what to do with it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

from flashir.errors import option

HEAD = 16
"""How many bytes of a file identify its kind."""


@dataclass(frozen=True)
class FileKind:
    """A kind of file.

    Args:
        what: its description, such as `a PyTorch checkpoint`.
        as_parameters: a hint if it was passed as parameters.
        as_model: a hint if it was passed as a model; may be empty.
    """

    what: str
    as_parameters: str
    as_model: str = ""


_TORCH = FileKind(
    "a PyTorch pickle",
    "save it as safetensors: safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'p.safetensors'); "
    "if it holds more than tensors, such as a 'state_dict', use that",
    "save its tensors as safetensors, and give them with {params}",
)
_NUMPY = FileKind(
    "a NumPy file",
    "save it as safetensors: flashir.save_params(dict(numpy.load(FILE)), 'p.safetensors')",
    "save its arrays with flashir.save_params, and give them with {params}",
)
_SAFETENSORS = FileKind("a file of parameters", "", "give it with {params}, together with a model")
_GGUF = FileKind("a GGUF file", "use the parameters that it was made from, as safetensors")
_ONNX = FileKind("an ONNX model", "give the safetensors file, or the checkpoint, that it was exported from")
_PROGRAM = FileKind("a PyTorch program", "give the safetensors file, or the checkpoint, that it was exported from")
_HDF5 = FileKind("an HDF5 file", "save its arrays as safetensors, by full name: flashir.save_params")
_MSGPACK = FileKind("a msgpack file of Flax", "save its arrays by full name: flashir.save_params")
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
    """The kind of a file; None if it is unknown, or begins like a safetensors file.

    Args:
        path: the file; for an archive, the names inside decide.
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
    """Whether a file begins like a safetensors file: with a plausible length and a JSON object."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def given_as_model(path: Path) -> FileKind | None:
    """The kind of a file that was passed as the text of a model; None if it may be one, or is not a file."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return None
    if all(byte in _TEXT for byte in head):
        return None
    kind = _SAFETENSORS if is_safetensors(head) else kind_of(path, head)
    if kind is _FIR:  # by its name alone: whoever reads it says where it is no text
        return None
    return kind and replace(kind, as_model=kind.as_model.format(params=option("params", "")))


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
