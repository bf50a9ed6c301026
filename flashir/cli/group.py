"""Runs the verbs: prints one message per error, warnings without source lines, and sets the exit code."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from flashir.arguments import translated_errors
from flashir.cli import console
from flashir.cli.help import group_help, verb_help
from flashir.cli.streams import asides, result
from flashir.cli.usage import usage_message
from flashir.errors import FlashirError, command_line
from flashir.interrupts import Ended, like_ctrl_c

PROGRAM = "flashir"
DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
ENDED = 128  # plus the number of the signal
_UsageError: Any = typer.BadParameter.__bases__[0]  # typer gives it no public name


class Verb(TyperCommand):
    """A verb with our own help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        verb_help(self, ctx)


class Cli(TyperGroup):
    """All verbs. Every outcome of a verb becomes an exit code here."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        group_help(self, ctx)

    def main(self, args: Any = None, *_: Any, **extra: Any) -> NoReturn:
        """Run a command line and exit: 0 done, 1 a check failed, 2 an error of the user, 130 interrupted.

        The exit code after a signal is 128 plus its number, such as 143 for SIGTERM.
        """
        self._main_shell_completion({}, PROGRAM)  # if a shell asks what may follow
        args = list(sys.argv[1:] if args is None else args) or ["--help"]
        debug = "--debug" in args or os.environ.get("FLASHIR_DEBUG", "") not in ("", "0", "false")
        with asides(), command_line(), like_ctrl_c(), warnings.catch_warnings():
            warnings.simplefilter("once", UserWarning)
            warnings.showwarning = _show_warning
            code = _guarded(lambda: self._run(args), debug)
        sys.exit(code)

    def _run(self, args: list[str]) -> int:
        with result():
            try:
                with self.make_context(PROGRAM, args) as context:
                    self.invoke(context)
            except typer.Exit as ended:
                return ended.exit_code
        return DONE


def _guarded(run: Callable[[], int], debug: bool) -> int:
    """Run and return the exit code. Errors are printed."""
    try:
        with translated_errors():
            return run()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else FAILED
    except (KeyboardInterrupt, typer.Abort) as stopped:
        for note in getattr(stopped, "__notes__", ()):
            console.warn("interrupted:", note, "bold yellow")
        return ENDED + stopped.number if isinstance(stopped, Ended) else INTERRUPTED
    except _UsageError as error:
        hint = f"\n`{error.ctx.command_path} --help` shows the options" if error.ctx is not None else ""
        return _fail(f"{usage_message(error)}{hint}", MISUSED, debug)
    except FlashirError as error:
        return _fail(error.message, MISUSED, debug)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        hint = "this is a bug in flashir; please report it with the output of `flashir --debug`"
        return _fail(f"{problem}\n{hint}", FAILED, debug)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    console.warn("error:", message, "bold red")
    return code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = "; ".join(" ".join(part.split()) for part in str(message).splitlines() if part)
    console.warn("warning:", text, "bold yellow")
