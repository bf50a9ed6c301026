"""Shared parts of the command lines of experiments: checked numbers, and errors as one message."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from collections.abc import Callable

from flashir.errors import FlashirError

MISUSED = 2


def count(text: str) -> int:
    """A whole number from 1, as the type of an argument. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def guarded(main: Callable[[], object]) -> None:
    """Run a command line. A FlashirError becomes one message and exit code 2."""
    try:
        main()
    except FlashirError as error:
        print(f"error: {error.message}", file=sys.stderr)
        sys.exit(MISUSED)
