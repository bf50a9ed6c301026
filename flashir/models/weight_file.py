"""Files of tensors in the format safetensors: read by their bytes, each type exactly, and verified.

A file is the length of its header, the header in JSON, and the numbers of all tensors one after the other. It is read
here, not by the library: that has no bfloat16 for numpy unless ml_dtypes is imported before, and takes the last of
several tensors of one name. https://github.com/huggingface/safetensors#format

The digests that flashir writes stand in the metadata, under `flashir.sha256`: of each tensor, of its bytes in the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from flashir.errors import ParameterError
from flashir.files.atomic import atomic_write
from flashir.files.foreign import opened, parse_json, read_bytes
from flashir.files.kinds import kind_of
from flashir.reference.arrays import native, widened

Array = npt.NDArray[Any]

DIGESTS = "flashir.sha256"
CANNOT = "cannot read the parameters"
INDEX = ".safetensors.index.json"
LONGEST_HEADER = 100_000_000  # bytes, as the format has it
LISTED = 20  # problems that are shown

TYPES = {
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2", "BOOL": "u1", "I8": "i1", "I16": "<i2", "I32": "<i4",
    "I64": "<i8", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8",
}  # fmt: skip
"""What is read, each as the bytes lie in the file. The names that are not here are those of float8 and smaller."""


@dataclass(frozen=True)
class _Entry:
    """What the header says of one tensor; `begin` and `end` are bytes after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def write(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a file whole or not at all, with the digest of every tensor.

    Raises:
        ParameterError: every array that has a type that is not read either.
        ArtefactError: it cannot be written; what stood there before is whole.
    """
    known = {np.dtype(each).newbyteorder("=") for each in TYPES.values()} | {np.dtype(bool)}
    strange = [
        f"{name} has the type {array.dtype}"
        for name, array in arrays.items()
        if array.dtype.newbyteorder("=") not in known
    ]
    _refuse(strange, path, f"the types that can be written are {', '.join(sorted(map(str, known)))}")
    ordered = {name: native(array) for name, array in arrays.items()}
    digests = {name: _digest(array) for name, array in ordered.items()}
    atomic_write(path, lambda file: _save(ordered, file.name, {DIGESTS: json.dumps(digests)}))


def read(path: Path) -> dict[str, Array]:
    """Every tensor of a file, verified where the file carries digests. A bfloat16 is read as the same float32.

    Of a file in parts, that is named by `model.safetensors.index.json`, the tensors of all parts.

    Raises:
        ParameterError: the file cannot be read, is no safetensors or not all of one, has a type that is not read, or
            is damaged; it names the file and every tensor that is meant.
    """
    if path.is_dir():
        hint = "flashir.load_checkpoint reads a checkpoint or a run; of a file in parts, give its .index.json"
        raise ParameterError(f"{CANNOT}: this is a folder", where=str(path), hint=hint)
    return _in_parts(path) if path.name.endswith(INDEX) else _whole(path)


def _in_parts(path: Path) -> dict[str, Array]:
    """The tensors of the parts that an index names, which lie beside it. Raises ParameterError."""
    content = read_bytes(path, ParameterError, largest=LONGEST_HEADER, problem=CANNOT)
    index = parse_json(content, path, ParameterError, dict[str, Any], problem=CANNOT)
    place = index.get("weight_map")
    if not (isinstance(place, dict) and all(isinstance(each, str) and _is_name(each) for each in place.values())):
        wanted = "weight_map must say for each tensor the name of a file beside the index"
        raise ParameterError(f"{CANNOT}: {wanted}", where=str(path))
    arrays: dict[str, Array] = {}
    problems = []
    for part in sorted(set(place.values())):
        held = _whole(path.with_name(part))
        named = {name for name, file in place.items() if file == part}
        problems += [f"{name} is not in {part}" for name in sorted(named - set(held))]
        problems += [f"{name} is in {part}, where the index has it not" for name in sorted(set(held) - named)]
        arrays |= held
    _refuse(problems, path, "get all files of one version")
    return arrays


def _is_name(text: str) -> bool:
    """Whether a text is the name of a file, and not a path to another folder."""
    return text == Path(text).name and text not in ("", ".", "..") and "\\" not in text


def _whole(path: Path) -> dict[str, Array]:
    """The tensors of one file."""
    with opened(path, ParameterError, problem=CANNOT) as file:
        size = os.fstat(file.fileno()).st_size
        metadata, entries, start = _header(file, size, path)
        _refuse(_unread(entries), path, f"the types that are read are {', '.join(TYPES)}; save it in one of them")
        if misplaced := next(_misplaced(entries, size - start), None):
            raise ParameterError(f"{CANNOT}: {misplaced}", where=str(path))
        digests = _digests(metadata, path)
        damaged = [f"{name} is missing" for name in digests if name not in {entry.name for entry in entries}]
        arrays = {}
        for entry in entries:
            stored = _stored(file, start, entry)
            if entry.name in digests and _digest(stored) != digests[entry.name]:
                damaged.append(f"{entry.name} is damaged: its SHA-256 is not the one that was written with it")
            arrays[entry.name] = _as_numbers(stored, entry.dtype)
        _refuse(damaged, path, "the file changed since it was written; get a good copy")
        return arrays


def _header(file: BinaryIO, size: int, path: Path) -> tuple[dict[str, str], list[_Entry], int]:
    """The metadata, what is said of each tensor in the order of the file, and where the numbers begin."""
    head = file.read(16)
    length = int.from_bytes(head[:8], "little")
    if (kind := kind_of(path, head)) is not None:
        raise ParameterError(f"{CANNOT}: this is {kind.what}", where=str(path), hint=kind.as_parameters)
    if len(head) < 9 or length > min(size - 8, LONGEST_HEADER) or head[8:9] != b"{":
        raise ParameterError(f"{CANNOT}: this is no safetensors file, or not all of one", where=str(path))
    file.seek(8)
    text = file.read(length)
    said = parse_json(text, path, ParameterError, dict[str, dict[str, Any]], problem=CANNOT)
    json.loads(text, object_pairs_hook=_unique)
    metadata = said.pop("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ParameterError(f"{CANNOT}: its metadata must be texts by name", where=str(path))
    return metadata, sorted((_entry(*each) for each in said.items()), key=lambda each: each.end), 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table of JSON. Raises ValueError where it says something twice."""
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"its header has {next(name for name in names if names.count(name) > 1)!r} twice")
    return table


def _entry(name: str, said: Mapping[str, Any]) -> _Entry:
    """Raises ValueError where something is said of a tensor that the format does not have."""
    match said:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if len(said) == 3 and all(
            type(size) is int and size >= 0 for size in (*shape, begin, end)
        ):
            return _Entry(name, dtype, tuple(shape), begin, end)
    raise ValueError(f"its header says of {name!r} not a dtype, a shape and two data_offsets, but {str(said)[:100]}")


def _unread(entries: Sequence[_Entry]) -> list[str]:
    return [f"{each.name} has the type {each.dtype}, which is not read" for each in entries if each.dtype not in TYPES]


def _misplaced(entries: Sequence[_Entry], size: int) -> Iterator[str]:
    """What is wrong with the places of tensors, which follow each other from 0 to the end of the file."""
    last = 0
    for each in entries:
        if each.begin != last:
            yield f"{each.name} begins at byte {each.begin}, where {last} follows the tensor before"
        wanted = prod(each.shape) * np.dtype(TYPES[each.dtype]).itemsize
        if each.end - each.begin != wanted:
            yield f"{each.name} has {each.end - each.begin} bytes, its shape {each.shape} of {each.dtype} has {wanted}"
        last = each.end
    if last != size:
        yield f"its tensors take {last} bytes, the file has {size}"


def _digests(metadata: Mapping[str, str], path: Path) -> dict[str, str]:
    """The digest of each tensor; of none, where another program wrote the file."""
    if DIGESTS not in metadata:
        return {}
    problem = f"{CANNOT}: the digests in its metadata are damaged"
    return parse_json(metadata[DIGESTS], path, ParameterError, dict[str, str], problem=problem)


def _stored(file: BinaryIO, start: int, entry: _Entry) -> Array:
    """A tensor as its bytes lie in the file. Raises OSError where it ends before."""
    array = np.empty(entry.shape, TYPES[entry.dtype])
    file.seek(start + entry.begin)
    if array.size and file.readinto(_bytes(array)) != array.nbytes:  # type: ignore[attr-defined]  # files have it
        raise OSError("the file became shorter while it was read")
    return array


def _as_numbers(stored: Array, dtype: str) -> Array:
    if dtype == "BF16":
        return widened(stored)
    return stored != 0 if dtype == "BOOL" else native(stored)


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _digest(array: Array) -> str:
    return hashlib.sha256(_bytes(np.asarray(array, array.dtype.newbyteorder("<"), order="C"))).hexdigest()


def _refuse(problems: Sequence[str], path: Path, hint: str) -> None:
    """Raises ParameterError with the problems that there are."""
    if problems:
        more = [f"and {len(problems) - LISTED} more"] * (len(problems) > LISTED)
        raise ParameterError([*problems[:LISTED], *more], where=str(path), hint=hint)


def _save(arrays: Mapping[str, Array], path: str, metadata: dict[str, str]) -> None:
    """Write by the library. Raises OSError, which the library tells in words alone."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(dict(arrays), path, metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
