"""Read and parse untrusted files.

The size of a file, its nesting and the digits of its numbers are bounded, and its schema is checked. Any exception of a
parser becomes one error that names the file:

    content = read_bytes(path, ArtefactError)
    manifest = parse_json(content, path, ArtefactError, Manifest)
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
"""Most bytes of a file of settings, digests or positions."""

LARGE = 512 * MIB
"""Most bytes of a file of text, of a vocabulary or of measurements."""

DEEPEST = 64
"""Most levels of lists and tables. Parsers allow about a thousand, but code that reads their values may not."""

LONGEST_NUMBER = 400
"""Most consecutive digits. A float without an exponent has up to 309."""

_CONTROL = (KeyboardInterrupt, SystemExit, GeneratorExit)
_SHOWN = 400  # at most so many characters of a reason are shown
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
_LONG_NUMBER = re.compile(rb"[0-9a-fA-F]{%d}" % (LONGEST_NUMBER + 1))  # TOML has hexadecimal numbers
_STEPS = [(byte in b"[{") - (byte in b"]}") for byte in range(256)]


@contextmanager
def guarded(path: str | Path, kind: Kind, problem: str, hint: str = "") -> Iterator[None]:
    """Turn any exception of a parser into one error that names the file. A FlashirError passes through.

    This includes a panic of a Rust extension, and running out of memory or stack. KeyboardInterrupt, SystemExit and
    GeneratorExit pass through.

    Args:
        path: the file, or the name of the input.
        kind: the class of the error.
        problem: what failed, such as `cannot read the recipe`; followed by the reason.
        hint: how to fix it.
    """
    try:
        yield
    except (FlashirError, *_CONTROL):
        raise
    except BaseException as error:
        raise kind(f"{problem}: {reason(error)}", where=str(path), hint=hint) from error


def reason(error: BaseException) -> str:
    """The message of a parser's exception in one short line."""
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text, see byte {error.start}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    message = " ".join(str(error).split())
    if not isinstance(error, Exception):
        return f"its parser gave up: {message[:_SHOWN]}"
    if type(error).__module__ == "msgspec" and type(error).__name__ == "ValidationError":
        message = mismatch(error)
    return message[:_SHOWN] or type(error).__name__


@contextmanager
def opened(
    path: str | Path, kind: Kind, *, problem: str = "cannot be read", streams: bool = False
) -> Iterator[BinaryIO]:
    """Open a file for reading. Exceptions inside are handled as by `guarded`.

    Args:
        path: the file.
        kind: the class of the error.
        problem: what failed.
        streams: also accept a pipe or a terminal. A pipe without a writer is empty.

    Raises:
        FlashirError: of this kind, if the file does not exist, is a folder or a device, or is not readable.
    """
    with guarded(path, kind, problem):
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            mode = os.fstat(handle).st_mode
            if not (stat.S_ISREG(mode) or streams):
                raise kind(f"{problem}: it is {_name(mode)}, not a file", where=str(path))
            if hasattr(os, "O_NONBLOCK") and not stat.S_ISREG(mode):
                os.set_blocking(handle, True)  # opening must not wait for a writer, but reading must
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
    """Read a file of at most `largest` bytes. Raises the errors of `opened`.

    Args:
        path: the file.
        kind: the class of the error.
        largest: the most bytes.
        problem, hint: what failed, and how to fix it.
        streams: as for `opened`.
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
    """Read a UTF-8 text file, with `\\n` for every line end. Raises the errors of `read_bytes`."""
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
    """Parse JSON into a given type.

    Args:
        content: the text in UTF-8.
        path: the path of the file, for errors.
        kind: the class of the error.
        shape: a type that msgspec supports, such as a Struct, `dict[str, str]`, or `object` for any value.
        problem, hint: what failed, and how to fix it.

    Raises:
        FlashirError: of this kind, if the text is not JSON of this type, is nested too deeply, or has a number of too
            many digits.
    """
    import msgspec

    with guarded(path, kind, problem, hint):
        encoded = content.encode() if isinstance(content, str) else content
        _check_json(encoded)
        return msgspec.json.decode(encoded, type=shape)


def parse_toml(
    content: str | bytes, path: str | Path, kind: Kind, *, problem: str = "this is no TOML", hint: str = ""
) -> dict[str, Any]:
    """Parse TOML into a dict. Raises the errors of `parse_json`."""
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
    """Raise the ValueError of the checks below. Most files pass without removing their strings."""
    if _LONG_NUMBER.search(content):
        _check_digits(_JSON_STRINGS.sub(b'""', content))
    if content.count(b"[") + content.count(b"{") > DEEPEST:
        _check_depth(_JSON_NO_BRACKETS.sub(b"", content))


def _check_digits(plain: bytes) -> None:
    """Raise ValueError if a number is too long, in a text without its strings."""
    if _LONG_NUMBER.search(plain):
        raise ValueError(f"a number has more than {LONGEST_NUMBER} digits")


def _check_depth(brackets: bytes) -> None:
    """Raise ValueError if brackets are nested too deeply; other characters are ignored."""
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > DEEPEST:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels")
