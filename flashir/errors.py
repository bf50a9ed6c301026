"""The errors of flashir: each says what is wrong, where, and how to fix it.

An error collects every problem of one input, so that a user can fix them all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LONGEST_PROBLEM = 4000
"""Longest problem in a message, in characters; the middle of a longer one is left out."""


class FlashirError(Exception):
    """Base class of all errors that a user can cause.

    `problems` are one sentence each. `where` names the place: a file, a node, an argument. `hint` says how to fix it.
    `code` is stable and machine-readable.
    """

    code = "flashir"

    def __init__(self, problems: str | Iterable[str], *, where: str = "", hint: str = "") -> None:
        problems = (problems,) if isinstance(problems, str) else problems
        self.problems: tuple[str, ...] = tuple(map(shortened, problems))
        self.where = shortened(where)
        self.hint = hint
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """The whole message: place, problems (as a list if there are several), hint."""
        head = f"{self.where}: " if self.where else ""
        if len(self.problems) == 1:
            body = self.problems[0]
        else:
            body = f"{len(self.problems)} problems" + "".join(f"\n  - {problem}" for problem in self.problems)
        tail = f"\n{self.hint}" if self.hint else ""
        return f"{head}{body}{tail}"


def either(names: Iterable[str]) -> str:
    """Join names for a hint: `a`, `a or b`, `a, b or c`."""
    *first, last = list(names) or ["none, for none that can is installed"]
    return f"{', '.join(first)} or {last}" if first else last


class IRError(FlashirError):
    """The IR is malformed, ill-typed or cyclic, or uses undefined values."""

    code = "ir"


class SettingError(FlashirError):
    """A setting, option, name or choice does not exist, or conflicts with another."""

    code = "setting"


class ArgumentError(SettingError, TypeError):
    """An argument of a public function is missing, unknown, or of the wrong type."""

    code = "argument"


class ParameterError(FlashirError):
    """Parameters are missing, unexpected, misshapen, not finite, or damaged on disk."""

    code = "parameter"


class InputError(FlashirError):
    """Inputs of a run are invalid: token ids out of range, wrong shapes or dtypes, unsupported lengths."""

    code = "input"


class ResultError(FlashirError):
    """A result is not finite."""

    code = "result"


class TargetError(FlashirError):
    """A target or backend is unknown, not installed, or does not support the request."""

    code = "target"


class ArtefactError(FlashirError):
    """An artefact or store cannot be written, read or verified."""

    code = "artefact"


class ForeignError(ArtefactError):
    """A file is intact, but flashir did not write it."""

    code = "foreign"


class TrainingError(FlashirError):
    """A training run diverged: its loss or its parameters are not finite, or grow without bound."""

    code = "training"


def shortened(text: str, most: int = LONGEST_PROBLEM) -> str:
    """The text, without its middle if it is longer than `most`: quoted input may have megabytes."""
    return text if len(text) <= most else f"{text[: most * 3 // 4]} .. {text[-most // 4 :]}"


@contextmanager
def gathered(problems: list[str]) -> Iterator[None]:
    """Append the problems of an error raised inside to a list, so that all are reported at once."""
    try:
        yield
    except FlashirError as error:
        place = f"{error.where}: " if error.where else ""
        problems += [text if text.startswith(error.where) else place + text for text in error.problems]


class Faults:
    """Collects the errors of several calls, to raise all of them before any work starts.

    faults = Faults()
    random = faults.of(SplitMix64, seed)    # None if it raises
    faults.tell()
    """

    def __init__(self) -> None:
        self._errors: list[FlashirError] = []

    def of(self, make: Callable[P, T], *args: P.args, **named: P.kwargs) -> T | None:
        """Return the result of a call, or None if it raises; `tell` raises the error later."""
        try:
            return make(*args, **named)
        except FlashirError as error:
            self._errors.append(error)
            return None

    def tell(self) -> None:
        """Raise the collected error; if there are several, one InputError with all problems."""
        if len(self._errors) == 1:
            raise self._errors[0]
        problems: list[str] = []
        for error in self._errors:
            with gathered(problems):
                raise error
        if problems:
            raise InputError(
                problems, hint="\n".join(dict.fromkeys(error.hint for error in self._errors if error.hint))
            )


_on_command_line = False


@contextmanager
def command_line() -> Iterator[None]:
    """Inside, messages name command-line options instead of Python arguments."""
    global _on_command_line
    before, _on_command_line = _on_command_line, True
    try:
        yield
    finally:
        _on_command_line = before


def option(name: str, value: object = True, *, flag: str | None = None) -> str:
    """How to set an option in the current interface: `max_len=4096` in Python, `--max-len 4096` on the command line.

    Args:
        name: the Python argument.
        value: the value to set. A bool is a switch, without a value on the command line; "" omits the value.
        flag: the command-line option, if it is not the name with hyphens.
    """
    if not _on_command_line:
        return name if value == "" else f"{name}={value}"
    switch = flag or f"--{name.replace('_', '-')}"
    return switch if isinstance(value, bool) or value == "" else f"{switch} {value}"


def spoken(in_python: str, on_command_line: str) -> str:
    """Pick the text of a message for the current interface."""
    return on_command_line if _on_command_line else in_python


def counted(count: int, one: str) -> str:
    """`1 row`, `4,096 rows`."""
    return f"{count:,} {one}" if count == 1 else f"{count:,} {one}s"


def suggest(name: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the list of known names if none is similar to the name, which may be no string."""
    import difflib

    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"
