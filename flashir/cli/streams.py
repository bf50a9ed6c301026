"""The standard streams, whatever became of them: closed, full, without a reader, or unable to spell what is written.

The result of a verb goes to standard output, so a verb that cannot write it fails. Standard error has asides, which are
lost where it cannot be written. What an encoding lacks is spelled in ASCII.
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
"""The exit code of a program whose reader has gone: 128 and the number of SIGPIPE."""

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
"""Signs in ASCII, for encodings that lack them; a sign of one column stays one, but for dots and arrows."""

_IN_ASCII = "flashir-in-ascii"
_GONE = {errno.EPIPE, errno.ESHUTDOWN} | ({errno.EINVAL} if sys.platform == "win32" else set())


@contextmanager
def asides() -> Iterator[None]:
    """Have a standard error that takes everything: what cannot be written is lost."""
    _fill_gaps()
    before = sys.stderr
    sys.stderr = cast(TextIO, _Aside(io.StringIO() if before is None else before))
    try:
        yield
    finally:
        sys.stderr = before


@contextmanager
def result() -> Iterator[None]:
    """Have a standard output that fails in one way, and is written out at the end.

    What is written raises ArtefactError where there is no room, and SystemExit with CLOSED_PIPE where nobody reads.

    Raises:
        ArtefactError: it is closed from the start, so no result could be told.
    """
    before = sys.stdout
    if before is None:
        raise ArtefactError("it is closed", where="standard output", hint="> /dev/null leaves out what is printed")
    sys.stdout = cast(TextIO, _Result(before))
    try:
        yield
        sys.stdout.flush()
    except BaseException:
        with suppress(ArtefactError, SystemExit):  # what went wrong first is told
            sys.stdout.flush()
        raise
    finally:
        sys.stdout = before


def piped() -> bytes | None:
    """What was piped in; None where standard input is a terminal, or closed.

    Raises OSError where it cannot be read, and InputError where it does not end.
    """
    if sys.stdin is None or sys.stdin.isatty():
        return None
    text = sys.stdin.buffer.read(LARGE + 1)
    if len(text) > LARGE:
        raise InputError(f"it has more than {LARGE:,} bytes", where="standard input")
    return text


def can_spell(stream: TextIO, text: str) -> bool:
    """Whether the encoding of a stream has all of a text."""
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


class _Stream:
    """A stream whose encoding holds every text; all but `write` and `flush` is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, signs that the encoding lacks in ASCII."""
        encoding = self._stream.encoding or "utf-8"
        with self._failing():
            self._stream.write(text.encode(encoding, _IN_ASCII).decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Have all that was written where it belongs."""
        with self._failing():
            self._stream.flush()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        raise NotImplementedError
        yield

    def _silence(self) -> None:
        """Nothing more can be said, not even what is left in buffers when Python shuts down."""
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
    """Open what is closed of the first three files, so that no other file is taken for a standard stream."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(SPELLED.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error(_IN_ASCII, _in_ascii)
