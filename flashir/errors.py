"""The errors of flashir: each says what is wrong, where, and how to mend it.

An error collects every problem of one input, so that a user mends them in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LONGEST_PROBLEM = 4000
"""Characters of one problem in a message; of a longer one the middle is left out."""


class FlashirError(Exception):
    """Base of all errors a user can cause.

    `problems` are one sentence each; `where` names the place (a file, a node, an argument); `hint` says what to do.
    `code` is stable and machine readable.
    """

    code = "flashir"

    def __init__(self, problems: str | Iterable[str], *, where: str = "", hint: str = "") -> None:
        told = (problems,) if isinstance(problems, str) else tuple(problems)
        self.problems: tuple[str, ...] = tuple(map(shortened, told))
        self.where = shortened(where)
        self.hint = hint
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """The whole message: place, problems (a list where there are several), mend."""
        head = f"{self.where}: " if self.where else ""
        if len(self.problems) == 1:
            body = self.problems[0]
        else:
            body = f"{len(self.problems)} problems" + "".join(f"\n  - {problem}" for problem in self.problems)
        tail = f"\n{self.hint}" if self.hint else ""
        return f"{head}{body}{tail}"


def either(names: Iterable[str]) -> str:
    """Some names for a hint: `a`, `a or b`, `a, b or c`."""
    *first, last = list(names) or ["none, for none that can is installed"]
    return f"{', '.join(first)} or {last}" if first else last


class IRError(FlashirError):
    """IR that is malformed, ill-typed, dangling or cyclic."""

    code = "ir"


class SettingError(FlashirError):
    """A setting, option, name or choice that does not exist or does not fit the others."""

    code = "setting"


class ArgumentError(SettingError, TypeError):
    """An argument of a public function that is missing, unknown, or of another type."""

    code = "argument"


class ParameterError(FlashirError):
    """Parameters that are missing, extra, misshapen, not finite, or damaged on disk."""

    code = "parameter"


class InputError(FlashirError):
    """Inputs of a run: token ids out of range, wrong shapes or types, lengths a model cannot take."""

    code = "input"


class ResultError(FlashirError):
    """A result that is no finite number, so that nothing can be said of it."""

    code = "result"


class TargetError(FlashirError):
    """A target or backend that is unknown, not installed, or cannot do what is asked."""

    code = "target"


class ArtefactError(FlashirError):
    """An artefact or store that cannot be written, read or verified."""

    code = "artefact"


class TrainingError(FlashirError):
    """A run that cannot go on: its loss or its parameters are no longer finite, or grow without end."""

    code = "training"


def shortened(text: str, most: int = LONGEST_PROBLEM) -> str:
    """The text, its middle left out where it is longer than `most`: input that is quoted may have megabytes."""
    return text if len(text) <= most else f"{text[: most * 3 // 4]} .. {text[-most // 4 :]}"


@contextmanager
def gathered(problems: list[str]) -> Iterator[None]:
    """Adds what is wrong inside to a list instead of raising it, so that all is told at once."""
    try:
        yield
    except FlashirError as error:
        place = f"{error.where}: " if error.where else ""
        problems += [each if each.startswith(error.where) else place + each for each in error.problems]


class Faults:
    """What is wrong, all of it, before any work starts.

    faults = Faults()
    random = faults.of(SplitMix64, seed)    # None where it raises
    faults.tell()
    """

    def __init__(self) -> None:
        self._errors: list[FlashirError] = []

    def of(self, make: Callable[P, T], *args: P.args, **named: P.kwargs) -> T | None:
        """What a call returns; None where it raises, which is kept for later."""
        try:
            return make(*args, **named)
        except FlashirError as error:
            self._errors.append(error)
            return None

    def tell(self) -> None:
        """Raises what there was: the error itself where it is one, else all in one InputError."""
        if len(self._errors) == 1:
            raise self._errors[0]
        problems: list[str] = []
        for error in self._errors:
            with gathered(problems):
                raise error
        if problems:
            raise InputError(problems, hint="\n".join(dict.fromkeys(each.hint for each in self._errors if each.hint)))


_on_command_line = False


@contextmanager
def command_line() -> Iterator[None]:
    """While a command line runs, messages name its options instead of arguments of Python."""
    global _on_command_line
    before, _on_command_line = _on_command_line, True
    try:
        yield
    finally:
        _on_command_line = before


def option(name: str, value: object = True, *, flag: str | None = None) -> str:
    """How the reader of a message sets something: `max_len=4096` in Python, `--max-len 4096` on the command line.

    Args:
        name: the argument in Python.
        value: what to set it to; True and False are of a switch, which has no value on the command line; "" leaves it
            to the reader.
        flag: the option of the command line, where it is not the name with hyphens.
    """
    if not _on_command_line:
        return name if value == "" else f"{name}={value}"
    said = flag or f"--{name.replace('_', '-')}"
    return said if isinstance(value, bool) or value == "" else f"{said} {value}"


def spoken(in_python: str, on_command_line: str) -> str:
    """What a message says to its reader, where the two have nothing in common."""
    return on_command_line if _on_command_line else in_python


def counted(count: int, one: str) -> str:
    """`1 row`, `4,096 rows`."""
    return f"{count:,} {one}" if count == 1 else f"{count:,} {one}s"


def suggest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the list of what is known where nothing is near."""
    import difflib

    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"
