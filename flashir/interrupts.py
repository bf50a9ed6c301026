"""Interrupts by Ctrl-C or a signal: report what was saved, and leave nothing half-written.

with on_interrupt("nothing was written"):
    work()    # a KeyboardInterrupt gets this text as a note, which the command line shows
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))  # Windows lacks one
STOPPING = (signal.SIGINT, *ENDING)
AGAIN_S = 0.05
"""Seconds until a signal comes again, which leaves a finaliser or a callback time to return."""


class Ended(KeyboardInterrupt):
    """A signal other than SIGINT asked the program to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__()


@contextmanager
def like_ctrl_c() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise Ended; a second signal ends the process at once.

    Ignored signals, as under nohup, stay ignored. Python swallows what is raised in a finaliser or in a callback of the
    garbage collector; an interrupt there comes again. Does nothing outside the main thread, where Python gets no
    signals.
    """

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Ended(number)

    def swallowed(unraisable: sys.UnraisableHookArgs) -> None:
        interrupt = unraisable.exc_value
        if not (isinstance(interrupt, KeyboardInterrupt) and _gets_signals()):
            report(unraisable)
            return
        number = interrupt.number if isinstance(interrupt, Ended) else signal.SIGINT
        if number in numbers:
            signal.signal(number, end)
        timer = threading.Timer(AGAIN_S, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    numbers = [signum for signum in ENDING if _gets_signals() and signal.getsignal(signum) == signal.SIG_DFL]
    for signum in numbers:
        signal.signal(signum, end)
    report, sys.unraisablehook = sys.unraisablehook, swallowed
    try:
        yield
    finally:
        sys.unraisablehook = report
        for signum in numbers:
            signal.signal(signum, signal.SIG_DFL)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Delay signals that ask to stop until the end of a short critical section."""
    received: list[int] = []
    numbers = [
        signum for signum in STOPPING if _gets_signals() and signal.getsignal(signum) not in (signal.SIG_IGN, None)
    ]
    before = {signum: signal.signal(signum, lambda number, frame: received.append(number)) for signum in numbers}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        for number in received[:1]:
            signal.raise_signal(number)


@contextmanager
def on_interrupt(message: str | Callable[[], str]) -> Iterator[None]:
    """Add a note to a KeyboardInterrupt that says what was saved, unless it already has one."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not getattr(interrupt, "__notes__", None):
            interrupt.add_note(message if isinstance(message, str) else message())
        raise


def _gets_signals() -> bool:
    return threading.current_thread() is threading.main_thread()
