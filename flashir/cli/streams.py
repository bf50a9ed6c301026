"""The standard streams, also if they are closed, full, without a reader, or have a narrow encoding.

The result of a verb goes to standard output; a verb that cannot write it fails. Standard error is for messages, which
are lost if they cannot be written. Characters that an encoding lacks are replaced by ASCII.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from flashir.errors import ArtefactError, InputError
from flashir.files.foreign import LARGE

CLOSED_PIPE = 141
"""The exit code after the reader of a pipe has gone: 128 plus the number of SIGPIPE."""

SPELLED = {
    **dict.fromkeys("█▉▊▋▌", "#"),
    **dict.fromkeys("▍▎▏", "-"),
    **dict.fromkeys("·–—━╸╺─", "-"),  # noqa: RUF001
    **dict.fromkeys("’‘", "'"),  # noqa: RUF001
    **dict.fromkeys("“”", '"'),
    "…": "...",
    "→": "->",
    "×": "x",  # noqa: RUF001
    "µ": "u",
    "≤": "<=",
    "≥": ">=",
}
"""ASCII replacements of characters. All but dots and arrows have the same width."""

_IN_ASCII = "flashir-in-ascii"
_GONE = {errno.EPIPE, errno.ESHUTDOWN} | ({errno.EINVAL} if sys.platform == "win32" else set())


@contextmanager
def asides() -> Iterator[None]:
    """A standard error that never fails: what cannot be written is lost."""
    _fill_gaps()
    before = sys.stderr
    sys.stderr = cast(TextIO, _Aside(io.StringIO() if before is None else before))
    try:
        yield
    finally:
        sys.stderr = before


@contextmanager
def result() -> Iterator[None]:
    """A standard output with uniform errors, flushed at the end.

    Writing raises ArtefactError if the disk is full, and SystemExit with CLOSED_PIPE if the reader has gone.

    Raises:
        ArtefactError: standard output is closed from the start.
    """
    before = sys.stdout
    if before is None:
        raise ArtefactError(
            "it is closed", where="standard output", hint="redirect it to /dev/null to discard the output"
        )
    sys.stdout = cast(TextIO, _Result(before))
    try:
        yield
        sys.stdout.flush()
    except BaseException:
        with suppress(ArtefactError, SystemExit):  # the first error is reported
            sys.stdout.flush()
        raise
    finally:
        sys.stdout = before


def piped() -> bytes | None:
    """The content of standard input; None if it is a terminal or closed.

    Raises OSError if it cannot be read, and InputError if it is too long.
    """
    if sys.stdin is None or sys.stdin.isatty():
        return None
    text = sys.stdin.buffer.read(LARGE + 1)
    if len(text) > LARGE:
        raise InputError(f"it has more than {LARGE:,} bytes", where="standard input")
    return text


def can_spell(stream: TextIO, text: str) -> bool:
    """Whether the encoding of a stream can represent a text."""
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


class _Stream:
    """Wraps a stream so that any text can be written. Only `write` and `flush` are replaced."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, with ASCII for characters that the encoding lacks."""
        encoding = self._stream.encoding or "utf-8"
        with self._failing():
            self._stream.write(text.encode(encoding, _IN_ASCII).decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Flush the stream."""
        with self._failing():
            self._stream.flush()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        raise NotImplementedError
        yield

    def _silence(self) -> None:
        """Discard all further output, also what Python flushes at exit."""
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(null, self._stream.fileno())
            finally:
                os.close(null)


class _Result(_Stream):
    """Standard output."""

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._silence()
            if error.errno in _GONE:
                raise SystemExit(CLOSED_PIPE) from None
            hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
            raise ArtefactError(
                f"cannot write: {error.strerror or error}", where="standard output", hint=hint
            ) from error


class _Aside(_Stream):
    """Standard error."""

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):
            self._silence()


def _fill_gaps() -> None:
    """Open closed standard file descriptors, so that no other file is opened in their place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(SPELLED.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error(_IN_ASCII, _in_ascii)
