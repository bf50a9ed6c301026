"""The program around the verbs: one clear message for each error, plain warnings, quiet ends."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from flashir.cli import console
from flashir.cli.help import group_help, verb_help
from flashir.errors import FlashirError, command_line

FAILED, MISUSED, INTERRUPTED, CLOSED_PIPE = 1, 2, 130, 141
_UsageError: Any = typer.BadParameter.__bases__[0]  # typer gives it no public name


class Verb(TyperCommand):
    """A verb, with the help of this house."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        verb_help(self, ctx)


class Cli(TyperGroup):
    """All verbs. Whatever happens in one ends here, with an exit code."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        group_help(self, ctx)

    def main(self, args: Any = None, prog_name: str | None = None, *_: Any, **extra: Any) -> NoReturn:
        """Run a command line and exit: 0 done, 1 a check failed, 2 an error of the user, 130 interrupted."""
        args = list(sys.argv[1:] if args is None else args) or ["--help"]
        debug = "--debug" in args or os.environ.get("FLASHIR_DEBUG", "") not in ("", "0", "false")
        extra["standalone_mode"] = False
        with warnings.catch_warnings(), command_line():
            warnings.simplefilter("once", UserWarning)
            warnings.showwarning = _show_warning
            code = _guarded(lambda: super(Cli, self).main(args, "flashir", **extra), debug)
        sys.exit(code)


def _guarded(run: Callable[[], Any], debug: bool) -> int:
    """The exit code of a run; errors are told on the way."""
    try:
        code = run()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        return _silence()
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except _UsageError as error:
        hint = f"\n`{error.ctx.command_path} --help` says more" if error.ctx is not None else ""
        return _fail(f"{error.format_message()}{hint}", MISUSED, debug)
    except FlashirError as error:
        return _fail(error.message, MISUSED, debug)
    except MemoryError:
        return _fail("the machine has not enough memory for this", MISUSED, debug)
    except Exception as error:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        report = "this is a bug in flashir; please report it with what `flashir --debug` shows"
        return _fail(f"{what}\n{report}", FAILED, debug)


def _fail(message: str, code: int, debug: bool) -> int:
    try:
        if debug:
            traceback.print_exc()
        errors = console.err()
        errors.print("error:", style="bold red", end=" ")
        errors.print(message, soft_wrap=True)
    except BrokenPipeError:
        return _silence()
    return code


def _silence() -> int:
    """Whoever read has gone: nothing more can be said, not even while Python shuts down."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(null, stream.fileno())
        except (OSError, ValueError):
            continue
    return CLOSED_PIPE


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    errors = console.err()
    errors.print("warning:", style="bold yellow", end=" ")
    errors.print("; ".join(" ".join(part.split()) for part in str(message).splitlines() if part), soft_wrap=True)
