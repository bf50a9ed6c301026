"""Read and write safetensors files, with a digest of every tensor.

A file is the length of its header, the header in JSON, and the data of all tensors in sequence. It is read here and not
by the safetensors library, which needs ml_dtypes for bfloat16 in NumPy and silently accepts duplicate names.
https://github.com/huggingface/safetensors#format

The metadata holds the SHA-256 of the bytes of each tensor, under `flashir.sha256`.
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

from flashir.errors import ParameterError
from flashir.files.atomic import atomic_write
from flashir.files.foreign import opened, parse_json, read_bytes
from flashir.files.kinds import kind_of
from flashir.reference.arrays import Array, native, widened

DIGESTS = "flashir.sha256"
CANNOT = "cannot read the parameters"
INDEX = ".safetensors.index.json"
LONGEST_HEADER = 100_000_000  # bytes; the limit of the format
LISTED = 20  # at most so many problems are shown

TYPES = {
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2", "BOOL": "u1", "I8": "i1", "I16": "<i2", "I32": "<i4",
    "I64": "<i8", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8",
}  # fmt: skip
"""The supported dtypes and their layout in the file. float8 and smaller are not supported."""


@dataclass(frozen=True)
class _Entry:
    """The header entry of one tensor; `begin` and `end` are byte offsets after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def write(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file atomically, with the digest of every tensor and further metadata.

    Raises:
        ParameterError: lists every array of an unsupported dtype.
        ArtefactError: the file cannot be written; an existing file stays unchanged.
    """
    known = {np.dtype(layout).newbyteorder("=") for layout in TYPES.values()} | {np.dtype(bool)}
    unsupported = [
        f"{name} has the type {array.dtype}"
        for name, array in arrays.items()
        if array.dtype.newbyteorder("=") not in known
    ]
    _refuse(unsupported, path, f"the types that can be written are {', '.join(sorted(map(str, known)))}")
    ordered = {name: native(array) for name, array in arrays.items()}
    digests = {name: _digest(array) for name, array in ordered.items()}
    atomic_write(path, lambda file: _save(ordered, file.name, {DIGESTS: json.dumps(digests), **(metadata or {})}))


def read(path: Path) -> dict[str, Array]:
    """Read every tensor of a file, and verify it if the file has digests. A bfloat16 tensor is read as float32.

    For a sharded file, pass `model.safetensors.index.json` to read the tensors of all shards.

    Raises:
        ParameterError: the file cannot be read, is not a safetensors file, is truncated or damaged, or has an
            unsupported dtype. The error lists the tensors.
    """
    if path.is_dir():
        hint = "flashir.load_checkpoint reads a checkpoint or a run; for a file in parts, give its .index.json"
        raise ParameterError(f"{CANNOT}: this is a folder", where=str(path), hint=hint)
    return _in_parts(path) if path.name.endswith(INDEX) else _whole(path)


def _in_parts(path: Path) -> dict[str, Array]:
    """The tensors of the shards in an index, which lie next to it. Raises ParameterError."""
    content = read_bytes(path, ParameterError, largest=LONGEST_HEADER, problem=CANNOT)
    index = parse_json(content, path, ParameterError, dict[str, Any], problem=CANNOT)
    shards = index.get("weight_map")
    if not (isinstance(shards, dict) and all(isinstance(file, str) and _is_name(file) for file in shards.values())):
        problem = "weight_map must map each tensor to the name of a file next to the index"
        raise ParameterError(f"{CANNOT}: {problem}", where=str(path))
    arrays: dict[str, Array] = {}
    problems = []
    for shard in sorted(set(shards.values())):
        tensors = _whole(path.with_name(shard))
        listed = {name for name, file in shards.items() if file == shard}
        problems += [f"{name} is not in {shard}" for name in sorted(listed - set(tensors))]
        problems += [
            f"{name} is in {shard}, but the index does not list it there" for name in sorted(set(tensors) - listed)
        ]
        arrays |= tensors
    _refuse(problems, path, "get all files of one version")
    return arrays


def _is_name(text: str) -> bool:
    """Whether a text is a file name, and not a path to another folder."""
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
    """The metadata, the entry of each tensor in the order of the file, and the offset of the data."""
    head = file.read(16)
    length = int.from_bytes(head[:8], "little")
    if (kind := kind_of(path, head)) is not None:
        raise ParameterError(f"{CANNOT}: this is {kind.what}", where=str(path), hint=kind.as_parameters)
    if len(head) < 9 or length > min(size - 8, LONGEST_HEADER) or head[8:9] != b"{":
        raise ParameterError(f"{CANNOT}: this is not a safetensors file, or it is truncated", where=str(path))
    file.seek(8)
    text = file.read(length)
    header = parse_json(text, path, ParameterError, dict[str, dict[str, Any]], problem=CANNOT)
    json.loads(text, object_pairs_hook=_unique)
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ParameterError(f"{CANNOT}: its metadata must be strings by name", where=str(path))
    return metadata, sorted((_entry(*item) for item in header.items()), key=lambda entry: entry.end), 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError for a duplicate key."""
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"its header has {next(name for name in names if names.count(name) > 1)!r} twice")
    return table


def _entry(name: str, fields: Mapping[str, Any]) -> _Entry:
    """The entry of a tensor. Raises ValueError for anything that the format does not allow."""
    match fields:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if len(
            fields
        ) == 3 and all(type(size) is int and size >= 0 for size in (*shape, begin, end)):
            return _Entry(name, dtype, tuple(shape), begin, end)
    raise ValueError(f"its header must give {name!r} a dtype, a shape and two data_offsets, got {str(fields)[:100]}")


def _unread(entries: Sequence[_Entry]) -> list[str]:
    return [
        f"{entry.name} has the type {entry.dtype}, which is not supported"
        for entry in entries
        if entry.dtype not in TYPES
    ]


def _misplaced(entries: Sequence[_Entry], size: int) -> Iterator[str]:
    """Problems of the offsets: tensors must be contiguous from 0 to the end of the file."""
    last = 0
    for entry in entries:
        name, size_in_file = entry.name, entry.end - entry.begin
        if entry.begin != last:
            yield f"{name} begins at byte {entry.begin}, but the tensor before it ends at {last}"
        needed = prod(entry.shape) * np.dtype(TYPES[entry.dtype]).itemsize
        if size_in_file != needed:
            yield f"{name} has {size_in_file} bytes, but its shape {entry.shape} of {entry.dtype} needs {needed}"
        last = entry.end
    if last != size:
        yield f"its tensors take {last} bytes, the file has {size}"


def _digests(metadata: Mapping[str, str], path: Path) -> dict[str, str]:
    """The digest of each tensor; empty if another program wrote the file."""
    if DIGESTS not in metadata:
        return {}
    problem = f"{CANNOT}: the digests in its metadata are damaged"
    return parse_json(metadata[DIGESTS], path, ParameterError, dict[str, str], problem=problem)


def _stored(file: BinaryIO, start: int, entry: _Entry) -> Array:
    """A tensor in the layout of the file. Raises OSError if the file is too short."""
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
    """Raise ParameterError if there are problems."""
    if problems:
        more = [f"and {len(problems) - LISTED} more"] * (len(problems) > LISTED)
        raise ParameterError([*problems[:LISTED], *more], where=str(path), hint=hint)


def _save(arrays: Mapping[str, Array], path: str, metadata: dict[str, str]) -> None:
    """Write with the safetensors library. Raises OSError, which the library reports only as text."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(dict(arrays), path, metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
