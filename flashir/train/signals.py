"""Interrupts: the first asks a run to stop after its step, so that it can save; the second stops it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ASKED = (signal.SIGINT, signal.SIGTERM)
ANSWER = b"\nstopping after this step, to save it; once more stops at once\n"


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Whether somebody has asked to stop, by Ctrl-C or SIGTERM.

    Outside the main thread Python hears no signals; then nobody can ask.
    """
    heard = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        if heard:
            raise KeyboardInterrupt
        heard = True
        with suppress(OSError):
            os.write(2, ANSWER)  # print may be at work already, and must not be entered twice

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {each: signal.signal(each, hear) for each in ASKED}
    try:
        yield lambda: heard
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
