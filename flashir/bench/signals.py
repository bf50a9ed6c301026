"""Signals that end a benchmark as Ctrl-C does: what was measured is kept and shown, and no worker stays."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))  # Windows lacks one


@contextmanager
def like_ctrl_c() -> Iterator[None]:
    """Those that would end the process at once raise KeyboardInterrupt; what is ignored, as under nohup, stays so.

    Outside the main thread Python hears no signals.
    """
    here = threading.current_thread() is threading.main_thread()
    taken = [each for each in ENDING if here and signal.getsignal(each) == signal.SIG_DFL]
    for each in taken:
        signal.signal(each, signal.default_int_handler)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)
