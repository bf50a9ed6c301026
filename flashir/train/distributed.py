"""Synchronises training processes before they share a trainer: they wait for each other, and stop if one fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from flashir.backends.training import Trainer
from flashir.errors import FlashirError, TargetError
from flashir.execution.trainer import new_trainer
from flashir.ir.builder import Builder
from flashir.machine.processes import Processes
from flashir.models.parameters import init

TICK_S = 30.0
"""Seconds between signs of life of a process at work: backends time out after minutes of silence."""

T = TypeVar("T")
Report = Callable[[str, int, int], object]
"""Called with what is being done, the amount done and the total amount."""


class Meeting:
    """All processes that train together.

    Only one of them reports an error: the first if it has failed. `speaks` is true in the process that reports, as far
    as this process knows.

    Args:
        processes: the rank of this process and the number of processes.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.speaks = processes.is_first
        self._trainer: Trainer | None = None
        self._ticked = monotonic()

    def join(self, target: str) -> None:
        """Connect to the other processes through the backend of the target.

        Raises TargetError if this fails or the target is not available. Hosts may differ in that, so the first process
        of each host then reports the error.
        """
        if self.processes.count == 1:
            return
        try:
            self._trainer = _smallest(target)
        except FlashirError:
            self.speaks = os.environ.get("LOCAL_RANK", "0") == "0"
            raise

    def together(self, work: Callable[[Report], T], report: Report = lambda *_: None) -> T:
        """Do some work, and return when all processes have done theirs.

        Args:
            work: the work of this process. It reports its progress from its own thread.
            report: called with the progress.

        Raises:
            FlashirError: the error of the work, or a TargetError if only the work of another process failed.
        """

        def relay(what: str, done: int, total: int) -> None:
            report(what, done, total)
            if monotonic() - self._ticked >= TICK_S:
                self._agreed(True)
                self._ticked = monotonic()

        error: FlashirError | None = None
        try:
            result = work(relay)
        except FlashirError as raised:
            error = raised
        while self._agreed(False):  # another process is at work
            pass
        if not self._agreed(error is not None):
            return result
        of_first = self._agreed(error is not None and self.processes.is_first)
        self.speaks = error is not None and (self.processes.is_first or not of_first)
        raise error or TargetError("another process has failed")

    def _agreed(self, flag: bool) -> bool:
        return flag if self._trainer is None else self._trainer.agreed(flag)


ALONE = Meeting(Processes())


def _smallest(target: str) -> Trainer:
    """A trainer of a minimal model, for communication before the real model exists."""
    build = Builder("meeting")
    graph = build.finish(build.embed(build.input("ids", "i32[B, T]"), vocab=2, dim=2))
    return new_trainer(graph, target, init(graph))
