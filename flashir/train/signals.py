"""Interrupts: the first asks a run to stop after its step, so that it can save; the second stops it at once.

Of several processes each hears an interrupt more than once, from the terminal and from torchrun, which soon kills what
does not stop. So there the second says nothing new.
"""

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
def stopping(alone: bool = True) -> Iterator[Callable[[], bool]]:
    """Whether somebody has asked to stop, by Ctrl-C or SIGTERM; `alone` where no other process trains with this one.

    Outside the main thread Python hears no signals; then nobody can ask.
    """
    heard = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        if heard and alone:
            raise KeyboardInterrupt
        heard = True
        if not alone:
            return
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
