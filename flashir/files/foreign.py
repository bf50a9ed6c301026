"""The one way in for files that somebody else may have written.

A file is read up to a bound, parsed up to a bound of nesting and of digits, and checked for the shape that is wanted.
Whatever a parser raises becomes one error that names the file:

    content = read_bytes(path, ArtefactError)
    said = parse_json(content, path, ArtefactError, Manifest)
    with guarded(path, ArtefactError, "this is no ONNX model"):
        model = onnx.load_model_from_string(content)
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from flashir.errors import FlashirError
from flashir.files.mismatch import mismatch

Shape = TypeVar("Shape")
Kind = type[FlashirError]

MIB = 2**20
SMALL = 16 * MIB
"""Bytes that a file of settings, digests or places may have."""

LARGE = 512 * MIB
"""Bytes that a file of text, of a vocabulary or of measurements may have."""

DEEPEST = 64
"""Levels of lists and tables in a file. Parsers go on to a thousand, where what reads their values may not."""

LONGEST_NUMBER = 400
"""Digits in a row. Floats have up to 309 of them where they are written without an exponent."""

_CONTROL = (KeyboardInterrupt, SystemExit, GeneratorExit)
_SHOWN = 400  # characters of a reason that are told
_BLOCK = MIB
_JSON_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)'
_JSON_STRINGS = re.compile(_JSON_STRING, re.DOTALL)
_JSON_NO_BRACKETS = re.compile(rb"(?:" + _JSON_STRING + rb'|[^][{}"]++)++', re.DOTALL)
_TOML_PLAIN = re.compile(
    r'''"""(?:[^\\]|\\.)*?(?:"""|\Z)|\'{3}.*?(?:\'{3}|\Z)'''
    r"""|"(?:[^"\\\n]|\\[^\n])*+(?:"|(?=\n)|\Z)|'[^'\n]*+(?:'|(?=\n)|\Z)|#[^\n]*""",
    re.DOTALL,
)
_TOML_KEY = re.compile(rf"\.(?:[ \t]*+[\w-]*+[ \t]*+\.){{{DEEPEST}}}")
_LONG_NUMBER = re.compile(rb"[0-9a-fA-F]{%d}" % (LONGEST_NUMBER + 1))  # TOML has hexadecimal ones
_STEPS = [(byte in b"[{") - (byte in b"]}") for byte in range(256)]


@contextmanager
def guarded(path: str | Path, kind: Kind, problem: str, hint: str = "") -> Iterator[None]:
    """Turns whatever a parser raises into one error that names the file; an error of flashir passes as it is.

    That takes in what extension modules raise beside exceptions, such as a panic of a Rust library, and memory or
    stack that is used up. What ends the program on purpose, such as Ctrl-C, passes too.

    Args:
        path: the file, or the name of what is read.
        kind: the class of the error.
        problem: what could not be done, such as `cannot read the recipe`; the reason of the parser follows it.
        hint: what to do.
    """
    try:
        yield
    except (FlashirError, *_CONTROL):
        raise
    except BaseException as error:
        raise kind(f"{problem}: {reason(error)}", where=str(path), hint=hint) from error


def reason(error: BaseException) -> str:
    """What an exception of a parser says, in one short line."""
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text, see byte {error.start}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = " ".join(str(error).split())
    if not isinstance(error, Exception):
        return f"its parser gave up: {said[:_SHOWN]}"
    if type(error).__module__ == "msgspec" and type(error).__name__ == "ValidationError":
        said = mismatch(error)
    return said[:_SHOWN] or type(error).__name__


@contextmanager
def opened(
    path: str | Path, kind: Kind, *, problem: str = "cannot be read", streams: bool = False
) -> Iterator[BinaryIO]:
    """A file, open to be read; whatever happens inside is told as by `guarded`.

    Args:
        path: the file.
        kind: the class of the error.
        problem: what could not be done, in words.
        streams: take what has no size as well, such as a pipe or a terminal. One that nobody writes to is empty.

    Raises:
        FlashirError: of that kind: there is no such file, it is a folder or a device, it may not be read.
    """
    with guarded(path, kind, problem):
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            mode = os.fstat(handle).st_mode
            if not (stat.S_ISREG(mode) or streams):
                raise kind(f"{problem}: it is {_name(mode)}, not a file", where=str(path))
            if hasattr(os, "O_NONBLOCK") and not stat.S_ISREG(mode):
                os.set_blocking(handle, True)  # it was opened without waiting for a writer, but is read with
            yield file


def _name(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def read_bytes(
    path: str | Path,
    kind: Kind,
    *,
    largest: int = LARGE,
    problem: str = "cannot be read",
    hint: str = "",
    streams: bool = False,
) -> bytes:
    """The content of a file of at most so many bytes; otherwise as `opened`.

    Args:
        path: the file.
        kind: the class of the error.
        largest: the bound in bytes.
        problem, hint: what could not be done, and what to do.
        streams: see `opened`.
    """
    parts: list[bytes] = []
    with opened(path, kind, problem=problem, streams=streams) as file:
        left = largest + 1
        while left and (block := file.read(min(left, _BLOCK))):
            parts.append(block)
            left -= len(block)
    if not left:
        raise kind(f"{problem}: it has more than {largest:,} bytes", where=str(path), hint=hint)
    return b"".join(parts)


def read_text(
    path: str | Path,
    kind: Kind,
    *,
    largest: int = LARGE,
    problem: str = "cannot be read",
    hint: str = "",
    streams: bool = False,
) -> str:
    """The text of a file in UTF-8, each line end as `\\n`; otherwise as `read_bytes`."""
    content = read_bytes(path, kind, largest=largest, problem=problem, hint=hint, streams=streams)
    with guarded(path, kind, problem, hint):
        return content.decode().replace("\r\n", "\n").replace("\r", "\n")


def parse_json(
    content: str | bytes,
    path: str | Path,
    kind: Kind,
    shape: type[Shape],
    *,
    problem: str = "this is no JSON that could be read",
    hint: str = "",
) -> Shape:
    """What a JSON text says, of the type that is wanted.

    Args:
        content: the text, in UTF-8.
        path: of the file that it stands in, for the error.
        kind: the class of the error.
        shape: a type that msgspec knows, such as a Struct, `dict[str, str]`, or `object` for whatever it is.
        problem, hint: what could not be done, and what to do.

    Raises:
        FlashirError: of that kind: no JSON, of another shape, nested too deeply, or with a number of too many digits.
    """
    import msgspec

    with guarded(path, kind, problem, hint):
        encoded = content.encode() if isinstance(content, str) else content
        _check_json(encoded)
        return msgspec.json.decode(encoded, type=shape)


def parse_toml(
    content: str | bytes, path: str | Path, kind: Kind, *, problem: str = "this is no TOML", hint: str = ""
) -> dict[str, Any]:
    """The table that a TOML text says. Raises as `parse_json`."""
    import tomllib

    with guarded(path, kind, problem, hint):
        text = content.decode() if isinstance(content, bytes) else content
        plain = _TOML_PLAIN.sub("x", text)
        _check_digits(plain.replace("_", "").encode())
        _check_depth(plain.encode())
        if _TOML_KEY.search(plain):
            raise ValueError(f"a key has more than {DEEPEST} parts")
        return tomllib.loads(text)


def _check_json(content: bytes) -> None:
    """Raises ValueError as the checks below. Most files need no look at their strings."""
    if _LONG_NUMBER.search(content):
        _check_digits(_JSON_STRINGS.sub(b'""', content))
    if content.count(b"[") + content.count(b"{") > DEEPEST:
        _check_depth(_JSON_NO_BRACKETS.sub(b"", content))


def _check_digits(plain: bytes) -> None:
    """Raises ValueError where a number is too long, in a text without its strings."""
    if _LONG_NUMBER.search(plain):
        raise ValueError(f"a number has more than {LONGEST_NUMBER} digits")


def _check_depth(brackets: bytes) -> None:
    """Raises ValueError where brackets are nested too deeply; anything else in the text counts for nothing."""
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > DEEPEST:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels")
