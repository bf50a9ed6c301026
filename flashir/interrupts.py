"""Who asks a program to stop, by Ctrl-C or a signal, hears what was kept, and leaves nothing half done.

with kept("nothing was written"):
    work()    # the KeyboardInterrupt that leaves this has that as a note, which the command line shows
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))  # Windows lacks one
STOPPING = (signal.SIGINT, *ENDING)


class Ended(KeyboardInterrupt):
    """Another signal than that of Ctrl-C asked the program to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__()


@contextmanager
def like_ctrl_c() -> Iterator[None]:
    """Signals that would end the process at once raise Ended, and the second time end it at once.

    What is ignored, as under nohup, stays so. Outside the main thread Python hears no signals.
    """

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Ended(number)

    taken = [each for each in ENDING if _hears() and signal.getsignal(each) == signal.SIG_DFL]
    for each in taken:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)


@contextmanager
def undisturbed() -> Iterator[None]:
    """What must not be left half done, and is short: a signal that asks to stop is heard after it."""
    asked: list[int] = []
    taken = [each for each in STOPPING if _hears() and signal.getsignal(each) not in (signal.SIG_IGN, None)]
    before = {each: signal.signal(each, lambda number, frame: asked.append(number)) for each in taken}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in asked[:1]:
            signal.raise_signal(number)


@contextmanager
def kept(said: str | Callable[[], str]) -> Iterator[None]:
    """Where what is inside is interrupted, the interrupt says what there is now, as a note; an inner one stands."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        if not getattr(stopped, "__notes__", None):
            stopped.add_note(said if isinstance(said, str) else said())
        raise


def _hears() -> bool:
    return threading.current_thread() is threading.main_thread()
