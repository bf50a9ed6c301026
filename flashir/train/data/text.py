"""Documents: text files, checked before anything is made of them, and read in pieces, so that no size needs memory."""

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
LISTED = 20  # problems that are shown

Paths = str | Path | Iterable[str | Path]

Progress = Callable[[str, int, int], object]
"""Is told what is done (`checking`, `tokenising`), how many bytes of text are, and of how many."""

_BORDER = re.compile(r"[ \n](?=\S)")


@dataclass(frozen=True)
class Document:
    """One text file as it was when it was checked.

    Args:
        path: where it is.
        digest: the SHA-256 of its bytes, in hexadecimal.
        size: its bytes.
    """

    path: Path
    digest: str
    size: int


@typed
def documents(paths: Paths, progress: Progress = lambda *_: None) -> tuple[Document, ...]:
    """Every text file that is named, and every `.txt` file in the folders that are, sorted; each file once.

    Raises:
        InputError: every file that is missing, empty, binary, not UTF-8 or unreadable; a folder without text, or one
            that cannot be read; what is no path.
    """
    problems: list[str] = []
    files = _files(_paths(paths), problems)
    found, done, total = [], 0, sum(map(_size, files))
    for file in files:
        size = _size(file)
        try:
            found.append(_checked(file))
        except InputError as error:
            problems += [f"{file} {problem}" for problem in error.problems]
        done += size
        progress("checking", done, total)
    if not files and not problems:
        problems.append("no text is given")
    if problems:
        shown = problems[:LISTED] + [f"and {len(problems) - LISTED} more"] * (len(problems) > LISTED)
        raise InputError(shown, where="data", hint="give files of UTF-8 text, or folders with .txt files")
    return tuple(found)


def pieces(document: Document, size: int = PIECE, unbroken: Sequence[str] = ()) -> Iterator[str]:
    """The text of a document in order, in pieces of about `size` bytes.

    A piece ends before a space or a new line that follows a word, where tokenizers begin a token anyway; only a text
    without any is cut inside a word.

    Args:
        document: the text.
        size: of a piece.
        unbroken: strings that are never cut, however long the pieces become.

    Raises:
        InputError: the file is not what it was when it was checked.
    """
    digest, kept = hashlib.sha256(), ""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with opened(document.path, InputError) as file:
            for block in _blocks(file, size):
                digest.update(block)
                kept += decoder.decode(block)
                end = _before(unbroken, kept, _last_border(kept))
                if end:
                    yield kept[:end]
                kept = kept[end:]
        same = digest.hexdigest() == document.digest
    except InputError:  # whatever reading it raises: it was whole, and was text
        same = False
    if not same:
        raise InputError("has changed since it was checked", where=str(document.path), hint="start again")
    if kept:
        yield kept


def words(document: Document, size: int = PIECE) -> int:
    """How many words a document has, split at white space: what a perplexity by word is over. Reads as `pieces`."""
    count, inside = 0, False
    for piece in pieces(document, size):
        count += len(piece.split()) - (inside and not piece[0].isspace())
        inside = not piece[-1].isspace()
    return count


def _paths(given: Paths) -> list[Path]:
    """One path, or several, each as a path. Raises InputError."""
    each = [given] if isinstance(given, str | PathLike) else list(given)
    strange = [path for path in each if not isinstance(path, str | Path) or not str(path)]
    if strange:
        raise InputError([f"a text must be given by its path, got {path!r}" for path in strange], where="data")
    return [Path(path) for path in each]


def _files(paths: Sequence[Path], problems: list[str]) -> list[Path]:
    """The files to read; what is wrong with a path is added to the problems."""
    files: dict[Path, Path] = {}
    for path in paths:
        try:
            inside = _inside(path, problems) if path.is_dir() else [path]
            if not inside:
                problems.append(f"{path} holds no {SUFFIX} file")
            for file in inside:
                if not file.exists():
                    problems.append(f"{file} does not exist")
                elif not file.is_file():
                    problems.append(f"{file} is no file")
                else:
                    files.setdefault(file.resolve(), file)
        except OSError as error:
            problems.append(_unread(path, error))
    return list(files.values())


def _inside(folder: Path, problems: list[str]) -> list[Path]:
    """Whatever has the name of a text in a folder and those in it, sorted, except folders; links to those are not gone
    along. A folder that cannot be read is added to the problems.
    """

    def refused(error: OSError) -> None:
        problems.append(_unread(error.filename, error))

    walked = os.walk(folder, onerror=refused)
    return sorted(Path(place, name) for place, _, names in walked for name in names if name.endswith(SUFFIX))


def _unread(path: object, error: OSError) -> str:
    return f"{path} cannot be read: {error.strerror or error}"


def _size(path: Path) -> int:
    """In bytes; 0 of a file that has gone, which is told where it is read."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _checked(path: Path) -> Document:
    """The document at a path. Raises InputError where it cannot be read, or is no text."""
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
    """Where the last space or new line after a word is, else the end of the text."""
    found = _BORDER.search(text[::-1])
    return len(text) - found.end() if found else len(text)


def _before(unbroken: Sequence[str], text: str, end: int) -> int:
    """The end, or where a string begins that the text up to there ends with, whole or in part.

    White space before it goes with it, as that after it does: a special token may take in what is on either side.
    """
    begins = [at for each in unbroken if (at := _begins(each, text, end)) is not None]
    return len(text[: min(begins)].rstrip()) if begins else end


def _begins(string: str, text: str, end: int) -> int | None:
    """Where the longest beginning of a string is that the text ends with at `end`; None where there is none."""
    sizes = range(min(end, len(string)), 0, -1)
    return next((end - size for size in sizes if text.startswith(string[:size], end - size)), None)
