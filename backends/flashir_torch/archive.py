"""The archive that `torch.export` writes: a zip. Sealed with a digest, and read only where it holds no code.

The digest of all bytes before it stands at the end, as the comment of the zip, which other readers show or ignore.
No bit can flip unseen: neither in a weight nor between the files, where PyTorch pads.

A digest tells damage, not intent. PyTorch warns that its loader may run what an archive says: pickled objects, and
symbolic sizes, which it evaluates as python. So before the loader sees an archive, every file in it must be one that
plain tensors need, and every expression one of sizes.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.export.pt2_archive import PT2ArchiveReader
from torch.export.pt2_archive.constants import EXTRA_DIR

from flashir.errors import ArtefactError
from flashir.files import reading

PREFIX = b"flashir.sha256="
DIGITS = 64
BLOCK = 2**20

_MEMBER = re.compile(
    r"(data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|extra/flashir\.[a-z0-9_.]+"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id))\Z"
)
_NODES = (
    ast.Expression, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.Name, ast.Constant, ast.Subscript,
    ast.Attribute, ast.keyword, ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.Load,
)  # fmt: skip
_NAMES = frozenset(
    (
        "L", "max", "min", "Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "FloorDiv",
        "PythonMod", "CeilDiv", "CleanDiv", "IntTrueDiv", "Eq", "Ne", "Le", "Lt", "Ge", "Gt", "StrictLessThan",
        "LessThan", "StrictGreaterThan", "GreaterThan", "Equality", "Unequality", "And", "Or", "Not",
    )
)  # fmt: skip
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


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
    with reading(path), path.open("rb") as file:
        end = file.seek(0, io.SEEK_END)
        file.seek(max(end - DIGITS - len(PREFIX), 0))
        prefix, wanted = file.read(len(PREFIX)), file.read().decode("ascii", "replace")
        if prefix != PREFIX:
            raise ArtefactError(
                "this is no PyTorch artefact of flashir, or not all of one",
                where=str(path),
                mend="export the model again",
            )
        file.seek(0)
        got = _digest(file, end - DIGITS)
    if got != wanted:
        raise ArtefactError(
            f"the file is damaged, or was changed: its sha256 is {got}, wanted {wanted}",
            where=str(path),
            mend="export the model again",
        )


def extra_files(path: Path) -> dict[str, str]:
    """The texts that an archive carries beside its program, its digest verified. Raises as `check_seal`."""
    check_seal(path)
    with PT2ArchiveReader(str(path)) as archive:
        names = [name for name in archive.get_file_names() if name.startswith(EXTRA_DIR)]
        return {name.removeprefix(EXTRA_DIR): archive.read_string(name) for name in names}


def check_content(path: Path) -> None:
    """Raises ArtefactError where the archive holds more than tensors and a program: every such thing.

    It is read by the reader that the loader has, for another would find other files under the same names in an
    archive that was made to say two things.
    """
    problems: list[str] = []
    try:
        with PT2ArchiveReader(str(path)) as archive:
            for name in archive.get_file_names():
                if not _MEMBER.match(name):
                    problems.append(f"it holds {name!r}, which no program needs")
                elif name.endswith("_config.json"):
                    problems += _pickled(json.loads(archive.read_bytes(name)))
                elif name == "models/model.json":
                    problems += _expressions(json.loads(archive.read_bytes(name)))
                elif name.startswith("data/sample_inputs/"):
                    torch.load(io.BytesIO(archive.read_bytes(name)), weights_only=True)
    except Exception as error:  # what is malformed fails in many ways, in C++ and in what is made of it here
        raise ArtefactError(f"the archive cannot be read: {error}", where=str(path)) from error
    if problems:
        raise ArtefactError(problems, where=str(path), mend="load only what you, or someone you trust, exported")


def _digest(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def _pickled(config: Any) -> Iterator[str]:
    for name, entry in config["config"].items():
        if entry["use_pickle"] is not False:
            yield f"the tensor {name!r} is pickled"


def _expressions(content: Any, key: str = "") -> Iterator[str]:
    """What is not an expression of sizes among all that the loader evaluates."""
    if isinstance(content, dict):
        for inner, value in content.items():
            yield from _expressions(value, inner)
    elif isinstance(content, list):
        for value in content:
            yield from _expressions(value, key)
    elif isinstance(content, str) and key in ("expr_str", "guards_code") and not _is_of_sizes(content):
        yield f"it would evaluate {content[:80]!r}"


def _is_of_sizes(text: str) -> bool:
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(_is_harmless(node) for node in ast.walk(tree))


def _is_harmless(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name):
            return name in _NAMES or re.fullmatch(r"[su]\d+", name) is not None
        case ast.Attribute(attr=name):
            return name == "size"
        case ast.Constant(value=str(word)):
            return _WORD.match(word) is not None
        case ast.Constant(value=value):
            return isinstance(value, (bool, int))
    return isinstance(node, _NODES)
