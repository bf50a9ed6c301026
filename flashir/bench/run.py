"""The run: cases in turn, a sample of each a round, as many at once as memory holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from flashir.bench.case import Case
from flashir.bench.process import Process, Worker
from flashir.bench.reason import reason
from flashir.bench.record import Row
from flashir.machine.memory import gigabytes
from flashir.machine.peak_memory import free_memory
from flashir.machine.targets import target as find_target

Step = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@dataclass
class Bench:
    """One run. `rows` has what is known, at any time, in the order of the cases.

    Cases are opened in their order while memory lasts; those that are open together are a heat, and are timed in
    turn, so that noise hits all alike. Where one fails, its row says why, and the others go on.

    Args:
        cases: planned.
        rounds: samples of each.
        told: progress.
        kept: given the rows whenever something new is in them, between samples.
        start: makes a worker.
        free: bytes of main memory that there are now.
    """

    cases: Sequence[Case]
    rounds: int
    told: Step = lambda what, done, of: None
    kept: Callable[[Sequence[Row]], object] = lambda rows: None
    start: Callable[[Case], Worker] = Process
    free: Callable[[], int] = free_memory
    rows: list[Row] = field(init=False)
    _open: dict[int, Worker] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.rows = [case.row for case in self.cases]

    def run(self) -> list[Row]:
        """All rows, filled. However it ends, no process stays."""
        left = deque(i for i, case in enumerate(self.cases) if not case.row.problem)
        heat = 0
        try:
            while left:
                heat += 1
                self._admit(left, heat)
                for number in range(self.rounds):
                    if not self._open:
                        break
                    several = f" of heat {heat}" if heat > 1 or left else ""
                    self.told(f"round {number + 1}{several}, {len(self._open)} cases", number, self.rounds)
                    self._round()
                    self.kept(self.rows)
                self._close_all()
        finally:
            self._close_all()
            self.kept(self.rows)
        return self.rows

    def _admit(self, left: deque[int], heat: int) -> None:
        """Open the next cases, as long as each fits beside those that are open."""
        while left:
            case = self.cases[left[0]]
            lacking = self._lacking(case)
            if lacking and self._open:
                return
            index = left.popleft()
            if lacking:
                self.rows[index] = replace(case.row, left_out=lacking)
                continue
            self.told(f"compiling {case.row.name}", index, len(self.cases))
            self.rows[index] = replace(case.row, heat=heat)
            with self._guarded(index):
                self._open[index] = self.start(case)
                baseline = self._open[index].ready()["baseline_bytes"]
                self.rows[index] = replace(self.rows[index], baseline_bytes=baseline)
            self.kept(self.rows)

    def _round(self) -> None:
        for index in tuple(self._open):
            with self._guarded(index):
                found, row = self._open[index].sample(), self.rows[index]
                samples = (*row.samples_ms, found["ms"])
                self.rows[index] = replace(row, samples_ms=samples, peak_bytes=found["peak_bytes"])

    @contextmanager
    def _guarded(self, index: int) -> Iterator[None]:
        """Where anything with a worker fails, it is closed; its row says why, and has the samples that there are."""
        try:
            yield
        except Exception as error:
            self.rows[index] = replace(self.rows[index], failed=reason(error))
            self._close(index)

    def _lacking(self, case: Case) -> str:
        """Why a case does not fit now; empty where it does.

        Idle workers may have given memory back that they need when it is their turn: the most that one could want
        stays free.
        """
        others = [self.cases[index] for index in self._open]
        needed, free = case.host_bytes, self.free() - max((each.host_bytes for each in others), default=0)
        if needed > free:
            return f"needs {gigabytes(needed)}, and {gigabytes(max(0, free))} are free"
        on_card = case.card_bytes + sum(each.card_bytes for each in others)
        memory = find_target(case.row.target).memory
        if case.card_bytes and on_card > memory:
            return f"needs {gigabytes(on_card)} of {gigabytes(memory)} on {case.row.target}"
        return ""

    def _close(self, index: int) -> None:
        worker = self._open.pop(index, None)
        if worker is not None:
            worker.close()

    def _close_all(self) -> None:
        for index in tuple(self._open):
            self._close(index)
