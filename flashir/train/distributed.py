"""Several processes before they share a trainer: they do their work, wait for each other, and stop where one fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from flashir.backends.protocols import Trainer
from flashir.errors import FlashirError, TargetError
from flashir.execution.trainer import new_trainer
from flashir.ir.builder import Builder
from flashir.machine.processes import Processes
from flashir.models.parameters import init

TICK_S = 30.0
"""How often one that is at work says so: backends give up a process that is silent for minutes."""

T = TypeVar("T")
Told = Callable[[str, int, int], object]


class Meeting:
    """All processes that train together. What they meet with, one of them tells: the first, where it has met it.

    That is the one that `speaks`, as far as this process knows.

    Args:
        processes: which one this is.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.speaks = processes.is_first
        self._trainer: Trainer | None = None
        self._ticked = monotonic()

    def join(self, target: str) -> None:
        """Find the others, by the backend that will train.

        Raises TargetError where they are not found, or the target is not at hand; hosts may differ in that, so then the
        first process of each tells.
        """
        if self.processes.count == 1:
            return
        try:
            self._trainer = _smallest(target)
        except FlashirError:
            self.speaks = os.environ.get("LOCAL_RANK", "0") == "0"
            raise

    def together(self, work: Callable[[Told], T], told: Told = lambda *_: None) -> T:
        """Do some work; go on when all have done theirs.

        Args:
            work: of this process; it tells how far it is to what it is given, from its own thread.
            told: is told the same.

        Raises:
            FlashirError: what the work raised, or TargetError where only that of another process failed.
        """

        def heard(what: str, done: int, of: int) -> None:
            told(what, done, of)
            if monotonic() - self._ticked >= TICK_S:
                self._agreed(True)
                self._ticked = monotonic()

        error: FlashirError | None = None
        try:
            made = work(heard)
        except FlashirError as raised:
            error = raised
        while self._agreed(False):  # another is at work
            pass
        if not self._agreed(error is not None):
            return made
        of_first = self._agreed(error is not None and self.processes.is_first)
        self.speaks = error is not None and (self.processes.is_first or not of_first)
        raise error or TargetError("another process cannot go on")

    def _agreed(self, wish: bool) -> bool:
        return wish if self._trainer is None else self._trainer.agreed(wish)


ALONE = Meeting(Processes())


def _smallest(target: str) -> Trainer:
    """The trainer of next to nothing: what processes have in common before they have a model."""
    build = Builder("meeting")
    graph = build.finish(build.embed(build.input("ids", "i32[B, T]"), vocab=2, dim=2))
    return new_trainer(graph, target, init(graph))
