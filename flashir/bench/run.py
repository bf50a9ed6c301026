"""Run cases in groups that fit in memory: one sample of each case per round."""

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
"""A progress callback: what is being done, how much is done, and the total."""


@dataclass
class Bench:
    """A run of a benchmark. `rows` holds the current results, in the order of the cases.

    Cases are opened in order as long as they fit in memory. Those that are open together form a timing group and are
    timed in turn, so that noise affects all of them. If a case fails, its row says why, and the others continue.

    Args:
        cases: the planned cases.
        rounds: samples per case.
        progress: receives progress.
        on_change: called with the rows between samples, whenever they change.
        start: starts a worker.
        free: returns the free main memory in bytes.
    """

    cases: Sequence[Case]
    rounds: int
    progress: Step = lambda work, done, total: None
    on_change: Callable[[Sequence[Row]], object] = lambda rows: None
    start: Callable[[Case], Worker] = Process
    free: Callable[[], int] = free_memory
    rows: list[Row] = field(init=False)
    _open: dict[int, Worker] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.rows = [case.row for case in self.cases]

    def run(self) -> list[Row]:
        """Run all cases and return their rows. Ends all worker processes in any case."""
        pending = deque(i for i, case in enumerate(self.cases) if not case.row.problem)
        group = 0
        try:
            while pending:
                group += 1
                self._admit(pending, group)
                for number in range(self.rounds):
                    if not self._open:
                        break
                    group_text = f" of heat {group}" if group > 1 or pending else ""
                    self.progress(f"round {number + 1}{group_text}, {len(self._open)} cases", number, self.rounds)
                    self._round()
                    self.on_change(self.rows)
                self._close_all()
        finally:
            self._close_all()
            self.on_change(self.rows)
        return self.rows

    def _admit(self, pending: deque[int], group: int) -> None:
        """Open the next cases, as long as they fit in memory together with the open ones."""
        while pending:
            case = self.cases[pending[0]]
            lacking = self._lacking(case)
            if lacking and self._open:
                return
            index = pending.popleft()
            if lacking:
                self.rows[index] = replace(case.row, left_out=lacking)
                continue
            self.progress(f"compiling {case.row.name}", index, len(self.cases))
            self.rows[index] = replace(case.row, heat=group)
            with self._guarded(index):
                self._open[index] = self.start(case)
                baseline = self._open[index].ready()["baseline_bytes"]
                self.rows[index] = replace(self.rows[index], baseline_bytes=baseline)
            self.on_change(self.rows)

    def _round(self) -> None:
        for index in tuple(self._open):
            with self._guarded(index):
                answer, row = self._open[index].sample(), self.rows[index]
                samples = (*row.samples_ms, answer["ms"])
                self.rows[index] = replace(row, samples_ms=samples, peak_bytes=answer["peak_bytes"])

    @contextmanager
    def _guarded(self, index: int) -> Iterator[None]:
        """Close a worker after an error. Its row gets the reason and keeps its samples."""
        try:
            yield
        except Exception as error:
            self.rows[index] = replace(self.rows[index], failed=reason(error))
            self._close(index)

    def _lacking(self, case: Case) -> str:
        """Why a case does not fit in memory now; empty if it does.

        An idle worker may have released memory that it needs for its next sample, so the most that any worker could
        need stays free.
        """
        others = [self.cases[index] for index in self._open]
        needed, free = case.host_bytes, self.free() - max((other.host_bytes for other in others), default=0)
        if needed > free:
            return f"needs {gigabytes(needed)}, and {gigabytes(max(0, free))} are free"
        on_card = case.card_bytes + sum(other.card_bytes for other in others)
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
