"""Documents: text files that are checked first, and read in pieces to save memory."""

from __future__ import annotations

import codecs
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from flashir.arguments import typed
from flashir.errors import InputError
from flashir.files.foreign import opened

SUFFIX = ".txt"
BLOCK = 1 << 20
PIECE = 1 << 16
LISTED = 20  # at most so many problems are shown

Paths = str | Path | Iterable[str | Path]

Progress = Callable[[str, int, int], object]
"""Called with the kind of work (`checking`, `tokenising`), the bytes of text done, and their total."""

_BORDER = re.compile(r"[ \n](?=\S)")


@dataclass(frozen=True)
class Document:
    """A checked text file.

    Args:
        path: the path.
        digest: the SHA-256 of its bytes, in hexadecimal.
        size: its size in bytes.
    """

    path: Path
    digest: str
    size: int


@typed
def documents(paths: Paths, progress: Progress = lambda *_: None) -> tuple[Document, ...]:
    """The text files among the paths, and the `.txt` files in folders among them, sorted and without duplicates.

    Raises:
        InputError: lists the files that are missing, empty, binary, not UTF-8 or unreadable, the folders that are
            unreadable or have no text, and arguments that are not paths.
    """
    problems: list[str] = []
    files = files_of(paths, SUFFIX, problems)
    checked, done, total = [], 0, sum(map(_size, files))
    for file in files:
        size = _size(file)
        try:
            checked.append(_checked(file))
        except InputError as error:
            problems += [f"{file} {problem}" for problem in error.problems]
        done += size
        progress("checking", done, total)
    if not files and not problems:
        problems.append("there are no texts")
    if problems:
        raise InputError(listed(problems), where="data", hint="give files of UTF-8 text, or folders with .txt files")
    return tuple(checked)


def listed(problems: Sequence[str]) -> list[str]:
    """The first problems, and how many more there are."""
    return [*problems[:LISTED], *([f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else [])]


def pieces(document: Document, size: int = PIECE, unbroken: Sequence[str] = ()) -> Iterator[str]:
    """Yield the text of a document in pieces of about `size` bytes.

    A piece ends before a space or a new line after a word, where tokenizers begin a token anyway. A text without spaces
    is split inside words.

    Args:
        document: the document.
        size: the size of a piece in bytes.
        unbroken: strings that are never split, even if pieces become long.

    Raises:
        InputError: the file has changed since it was checked.
    """
    digest, rest = hashlib.sha256(), ""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with opened(document.path, InputError) as file:
            for block in _blocks(file, size):
                digest.update(block)
                rest += decoder.decode(block)
                end = _before(unbroken, rest, _last_border(rest))
                if end:
                    yield rest[:end]
                rest = rest[end:]
        same = digest.hexdigest() == document.digest
    except InputError:  # it was a whole text when it was checked, so it has changed
        same = False
    if not same:
        raise InputError("has changed since it was checked", where=str(document.path), hint="start again")
    if rest:
        yield rest


def words(document: Document, size: int = PIECE) -> int:
    """Count the words of a document, split at white space, for the perplexity per word. Raises like `pieces`."""
    count, inside = 0, False
    for piece in pieces(document, size):
        count += len(piece.split()) - (inside and not piece[0].isspace())
        inside = not piece[-1].isspace()
    return count


def _paths(paths: Paths) -> list[Path]:
    """The paths as a list. Raises InputError for other arguments."""
    listed = [paths] if isinstance(paths, str | PathLike) else list(paths)
    strange = [path for path in listed if not isinstance(path, str | Path) or not str(path)]
    if strange:
        raise InputError([f"a text must be a path, got {path!r}" for path in strange], where="data")
    return [Path(path) for path in listed]


def files_of(paths: Paths, suffix: str, problems: list[str]) -> list[Path]:
    """The files to read; in folders, those with the suffix. Problems of paths are added to `problems`."""
    files: dict[Path, Path] = {}
    for path in _paths(paths):
        try:
            inside = _inside(path, suffix, problems) if path.is_dir() else [path]
            if not inside:
                problems.append(f"{path} has no {suffix} file")
            for file in inside:
                if not file.exists():
                    problems.append(f"{file} does not exist")
                elif not file.is_file():
                    problems.append(f"{file} is not a file")
                else:
                    files.setdefault(file.resolve(), file)
        except OSError as error:
            problems.append(_unread(path, error))
    return list(files.values())


def _inside(folder: Path, suffix: str, problems: list[str]) -> list[Path]:
    """The files in a folder and its subfolders with the suffix, sorted. Links to folders are not followed.

    Unreadable folders are added to `problems`.
    """

    def refused(error: OSError) -> None:
        problems.append(_unread(error.filename, error))

    walked = os.walk(folder, onerror=refused)
    return sorted(Path(place, name) for place, _, names in walked for name in names if name.endswith(suffix))


def _unread(path: object, error: OSError) -> str:
    return f"{path} cannot be read: {error.strerror or error}"


def _size(path: Path) -> int:
    """The size in bytes; 0 for a missing file, which is reported when it is read."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _checked(path: Path) -> Document:
    """Check a file. Raises InputError if it cannot be read, or is not text."""
    digest, size = hashlib.sha256(), 0
    decoder = codecs.getincrementaldecoder("utf-8")()
    with opened(path, InputError) as file:
        for block in _blocks(file, BLOCK):
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                raise InputError(f"is not UTF-8 text: see byte {size - waiting + error.start}") from None
            if b"\0" in block:
                raise InputError(f"is binary: byte {size + block.index(0)} is zero")
            digest.update(block)
            size += len(block)
    if decoder.getstate()[0]:
        raise InputError("is not UTF-8 text: it ends within a character")
    if not size:
        raise InputError("is empty")
    return Document(path, digest.hexdigest(), size)


def _blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
    while block := file.read(size):
        yield block


def _last_border(text: str) -> int:
    """The position of the last space or new line after a word, or the end of the text."""
    border = _BORDER.search(text[::-1])
    return len(text) - border.end() if border else len(text)


def _before(unbroken: Sequence[str], text: str, end: int) -> int:
    """The end, or the start of an unbroken string that the text up to the end ends with, whole or in part.

    White space before it stays with it, because a special token may absorb white space on either side.
    """
    begins = [at for string in unbroken if (at := _begins(string, text, end)) is not None]
    return len(text[: min(begins)].rstrip()) if begins else end


def _begins(string: str, text: str, end: int) -> int | None:
    """The position of the longest beginning of a string that the text ends with at `end`; None if there is none."""
    sizes = range(min(end, len(string)), 0, -1)
    return next((end - size for size in sizes if text.startswith(string[:size], end - size)), None)
