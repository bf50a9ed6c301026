"""Interrupts: the first asks a run to stop after its step and save, the second stops it immediately.

With several processes, each receives an interrupt more than once: from the terminal and from torchrun, which soon kills
processes that do not stop. The second interrupt then has no meaning.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ASKED = (signal.SIGINT, signal.SIGTERM)
ANSWER = b"\nstopping after this step, to save it; press again to stop immediately\n"


@contextmanager
def stopping(alone: bool = True) -> Iterator[Callable[[], bool]]:
    """Handles Ctrl-C and SIGTERM, and yields a function that returns whether one has arrived.

    Python delivers signals only to the main thread. In other threads the function always returns false.

    Args:
        alone: whether this process trains without others.
    """
    is_stopping = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        if is_stopping and alone:
            raise KeyboardInterrupt
        is_stopping = True
        if not alone:
            return
        with suppress(OSError):
            os.write(2, ANSWER)  # print is not reentrant

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, handle) for number in ASKED}
    try:
        yield lambda: is_stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
