"""The campaign: kinds take turns until the time is over, and a worker runs the cases of a turn."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from tests.campaign.crew import AbandonedError, Worker
from tests.campaign.kinds import Kind
from tests.campaign.ledger import Ledger
from tests.campaign.progress import Progress

TURN = 120.0
"""The longest turn in seconds. Short turns keep workers fresh and kinds alternating."""
GRACE = 20.0
"""Seconds for the last cases after the time is over."""


@dataclass
class Hunt:
    """A run of a campaign.

    Args:
        ledger: the ledger of the findings.
        kinds: the kinds in the order of their first turns.
        seconds: the duration; None if `cases` is set.
        workers: the number of processes at a time.
        progress: receives the progress.
        cases: the number of cases of each kind.
    """

    ledger: Ledger
    kinds: tuple[Kind, ...]
    seconds: float | None
    workers: int
    progress: Progress
    cases: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _busy: set[str] = field(default_factory=set, init=False)
    _spent: dict[str, float] = field(default_factory=dict, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _failed: list[BaseException] = field(default_factory=list, init=False)

    def run(self) -> None:
        """Run until the time is over or all cases are done. Raises KeyboardInterrupt after Ctrl-C."""
        self._deadline = None if self.seconds is None else time.monotonic() + self.seconds
        counts = self.ledger.counts
        self._last = {k.name: None if self.cases is None else counts[k.name].next + self.cases for k in self.kinds}
        self._spent = {kind.name: 0.0 for kind in self.kinds}
        threads = [threading.Thread(target=self._guarded, daemon=True) for _ in range(self.workers)]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                for thread in threads:
                    thread.join(0.1)
                self.progress.tick()
        except KeyboardInterrupt:
            self._stop.set()
            for thread in threads:
                thread.join(5)
            raise
        finally:
            with self._lock:
                self.ledger.write()
                self.ledger.close()
        if self._failed:
            raise self._failed[0]

    def _guarded(self) -> None:
        try:
            while (kind := self._take()) is not None:
                try:
                    self._turn(kind)
                finally:
                    with self._lock:
                        self._busy.discard(kind.name)
        except BaseException as error:
            self._failed.append(error)
            self._stop.set()

    def _take(self) -> Kind | None:
        """The free kind with the least time so far; None if there is nothing to do."""
        while not self._over():
            with self._lock:
                due = [kind for kind in self.kinds if not self._done(kind)]
                if not due:
                    return None
                free = [kind for kind in due if kind.name not in self._busy]
                if free:
                    kind = min(free, key=lambda each: self._spent[each.name])
                    self._busy.add(kind.name)
                    return kind
            time.sleep(0.05)
        return None

    def _turn(self, kind: Kind) -> None:
        """Run cases of one kind in a worker, which is replaced if it ends."""
        started = time.monotonic()
        fair = TURN if self.seconds is None else min(TURN, self.seconds * self.workers / len(self.kinds))
        until = started + fair
        worker: Worker | None = None
        try:
            while not self._over() and not self._done(kind) and time.monotonic() < until:
                if worker is None or not worker.alive:
                    if worker is not None:
                        worker.close()
                    worker = Worker(kind, self.ledger.seed, shared=self.ledger.folder.absolute() / "shared" / kind.name)
                number = self.ledger.counts[kind.name].next
                reply = worker.run(number, self._abandon)
                with self._lock:
                    self.ledger.add(kind, number, reply)
                    self.progress.saw(kind, number, reply)
        except AbandonedError:
            return
        finally:
            with self._lock:
                self._spent[kind.name] += time.monotonic() - started
            if worker is not None:
                worker.close()

    def _abandon(self) -> bool:
        late = self._deadline is not None and time.monotonic() > self._deadline + GRACE
        return late or self._stop.is_set()

    def _over(self) -> bool:
        return self._stop.is_set() or (self._deadline is not None and time.monotonic() >= self._deadline)

    def _done(self, kind: Kind) -> bool:
        last = self._last[kind.name]
        return last is not None and self.ledger.counts[kind.name].next >= last
