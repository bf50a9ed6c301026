"""The contest: find the best candidate by measuring only a few.

The cost model suggests candidates, and measurements correct it. First the chunk or tile that the plan would choose is
measured with every strategy, since the cost model errs most between strategies. The results correct the predictions of
the others. Then candidates are measured one at a time: the one that would be chosen now, or one that could still change
the choice. The contest stops if there is none, or if a third of all candidates (at least three) are measured. Those
that can still win are timed until the winner is clear, or often enough. Candidates that do not fit in memory together
are timed one after the other, which compares them a little less well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf
from time import monotonic

from flashir.autotune.measure import Measurer
from flashir.autotune.progress import Progress, Silent
from flashir.machine.memory import gigabytes
from flashir.planning.candidates import QUALITY_SLACK, Candidate, best, lengths, quality, strategies
from flashir.planning.measurements.correct import corrected
from flashir.planning.measurements.statistics import Timing, timings

SCREENING = 3
"""Rounds before candidates that are clearly behind are dropped."""
ROUNDS = 12
"""Rounds of the candidates that are still viable."""
BEHIND = 1.1
"""After screening, a candidate is dropped if it is slower than the choice by this factor."""
SHARE = 3
"""One in this many candidates is measured."""
FEWEST = 3
"""At least this many candidates are measured: the strategies of one chunk. With only two, a prediction that is 40% off
could rule out the third."""
FIRST = 2
"""At least this many candidates take part in the first rounds, to tell a slow candidate from a slow machine."""
SURE = 0.05
"""A candidate that could be chosen is not timed again if its relative uncertainty is below this: the policy's slack."""
DOUBT = 0.15
"""The fraction by which a corrected prediction may be too slow."""
DOUBT_NEW = 0.5
"""The same for a strategy without measurements."""


Keep = Callable[[Sequence[tuple[Candidate, Timing]]], None]


@dataclass
class Contest:
    """One contest. Call `run` once.

    Args:
        candidates: all candidates; `ms` is their expected time.
        measurer: times candidates.
        policy: chooses the winner.
        progress: receives progress events.
        budget_s: seconds after which no measurement starts; the first candidate is timed at least once.
        keep: called after every round with all measured candidates and their timings.
        room: bytes of memory for all open candidates together; a candidate that needs more is skipped.
        earlier: timings of earlier tuners. If they decide the contest, nothing is measured.
    """

    candidates: Sequence[Candidate]
    measurer: Measurer
    policy: str = "quality"
    progress: Progress = field(default_factory=Silent)
    budget_s: float | None = None
    keep: Keep = lambda measured: None
    room: float = inf
    earlier: Mapping[int, Timing] = field(default_factory=dict)
    samples: dict[int, dict[int, float]] = field(default_factory=dict, init=False)
    skipped: dict[int, str] = field(default_factory=dict, init=False)
    known: bool = field(default=False, init=False)
    _open: list[int] = field(default_factory=list, init=False)
    _round: int = field(default=0, init=False)
    _crowded: bool = field(default=False, init=False)

    @property
    def limit(self) -> int:
        """How many candidates are measured, plus one if the choice would be an unmeasured one."""
        return min(len(self.candidates), max(FEWEST, ceil(len(self.candidates) / SHARE)))

    def run(self) -> tuple[Candidate, ...]:
        """Run the contest. Returns every candidate with its measured time or its corrected prediction."""
        self._end = None if self.budget_s is None else monotonic() + self.budget_s
        self.known = self._is_known()
        if self.known:
            return self._known(cautious=True)
        longest = sorted((candidate.ms for candidate in self.candidates), reverse=True)[: self.limit]
        self.progress.started(self.limit, ROUNDS * sum(longest) / 1e3)
        try:
            while wave := self._wave():
                self._admit(wave)
                self._time(SCREENING)
                self._drop(BEHIND)
            self._decide()
            for index in tuple(self._open):
                self._close(index)
        finally:
            for index in self._open:  # after an error or Ctrl-C
                self.measurer.close(self.candidates[index])
            self.progress.finished()
        return self._known(cautious=True)

    def _is_known(self) -> bool:
        """Whether earlier timings decide: those that could be chosen are certain, and no other candidate is viable.

        Otherwise they only serve as expectations. Times of different hours compare badly, so all are timed again.
        """
        self.samples = {i: {0: timing.ms} for i, timing in self.earlier.items()}
        if self.samples and not self._wave():
            now = self._known(cautious=False)
            uncertain = {i: timing for i, timing in self.earlier.items() if not timing.doubt <= SURE}
            if all(timing.ms * (1 - timing.doubt) > self._bar(now[i], now) for i, timing in uncertain.items()):
                return True
        self.samples = {}
        return False

    def _wave(self) -> list[int]:
        """The candidates to measure next; empty if the choice is certain or enough were measured."""
        if self._late() and self.samples:
            return []
        if not self.samples:
            return self._first()
        left = [i for i in self._eligible() if i not in self.samples]
        if len(self.samples) < self.limit:
            now = self._known(cautious=False)
            viable = [i for i in left if self._hope(now[i], now) < 1]
            favourite = self._best(now)
            return [favourite] if favourite in viable else sorted(viable, key=lambda i: self._hope(now[i], now))[:1]
        favourite = self._best(self._known(cautious=True))
        return [favourite] if favourite in left else []

    def _first(self) -> list[int]:
        """The chunk or tile that would be chosen, with every viable strategy; plus others if those are few."""
        left = self._eligible()
        if not left:
            return []
        now = self.candidates
        chosen = now[self._best(now)]
        alike = [i for i in left if lengths(now[i]) == lengths(chosen)]
        wave = [i for i in alike if now[i].ms * (1 - DOUBT_NEW) <= chosen.ms]
        others = sorted((i for i in left if i not in wave), key=lambda i: now[i].ms)
        return [*sorted(wave, key=lambda i: now[i].ms), *others[: max(0, FIRST - len(wave))]][: self.limit]

    def _decide(self) -> None:
        """Time the open candidates until the choice is clear, or often enough."""
        while self._undecided():
            self._time(SCREENING)
            self._drop(1.0)

    def _undecided(self) -> bool:
        least = min((len(self.samples[i]) for i in self._open), default=ROUNDS)
        alone = len(self._open) == 1 and len(self.samples) > 1 and not self._crowded  # a closed one may be as good
        return least < ROUNDS and not alone and not self._late()

    def _eligible(self) -> list[int]:
        return [i for i in range(len(self.candidates)) if i not in self.skipped]

    def _best(self, now: Sequence[Candidate]) -> int:
        """The candidate that the policy prefers, of those that were not skipped."""
        return now.index(best([now[i] for i in self._eligible()], self.policy))

    def _hope(self, candidate: Candidate, now: Sequence[Candidate]) -> float:
        """The optimistic time of a candidate, relative to the time that it must not exceed to be chosen."""
        seen = any(strategies(now[i]) == strategies(candidate) for i in self.samples)
        return candidate.ms * (1 - (DOUBT if seen else DOUBT_NEW)) / self._bar(candidate, now)

    def _bar(self, candidate: Candidate, now: Sequence[Candidate]) -> float:
        """The milliseconds that a candidate must not exceed to be chosen, by the measurements so far."""
        measured = [now[i] for i in self.samples]
        fastest, chosen = min(other.ms for other in measured), best(measured, self.policy)
        if self.policy == "fastest" or quality(candidate) < quality(chosen):
            return fastest
        return chosen.ms if quality(candidate) == quality(chosen) else QUALITY_SLACK * fastest

    def _known(self, *, cautious: bool) -> tuple[Candidate, ...]:
        """All candidates with the measurements and corrections so far."""
        measured = timings(self.samples)
        ratios = {i: timing.ms / self.candidates[i].ms for i, timing in measured.items()}
        updated = [
            self._measured(i, measured[i]) if i in measured else candidate
            for i, candidate in enumerate(self.candidates)
        ]
        return corrected(updated, ratios, cautious=cautious)

    def _admit(self, wave: Sequence[int]) -> None:
        for index in wave:
            if (self._late() and self._open) or not self._has_room(index):
                return
            self.progress.measuring(self.candidates[index], 0)
            try:
                self._fits(index)
                self.measurer.open(self.candidates[index])
            except Exception as error:  # frameworks raise anything
                self._skip(index, error)
            else:
                self._open.append(index)

    def _fits(self, index: int) -> None:
        """Raise MemoryError if a candidate does not fit in memory even alone."""
        needed = self.candidates[index].peak_bytes
        if needed > self.room:
            raise MemoryError(f"needs {gigabytes(needed)}, and {gigabytes(self.room)} are free")

    def _has_room(self, index: int) -> bool:
        """Whether a candidate may be opened. If memory is full, the open ones are timed, and the slowest are closed.

        If some open ones were not timed yet, the candidate has to wait for them.
        """
        needed = self.candidates[index].peak_bytes
        while self._open and needed <= self.room < needed + sum(self.candidates[i].peak_bytes for i in self._open):
            if any(i not in self.samples for i in self._open):
                return False
            self._crowded = True
            self._decide()
            if self._open:
                measured = timings(self.samples)
                self._close(max(self._open, key=lambda i: measured[i].ms))
        return True

    def _time(self, rounds: int) -> None:
        """Time all open candidates for some rounds, one sample each in turn, so that noise affects all of them."""
        for _ in range(rounds):
            self._round += 1
            for index in tuple(self._open):
                if self.samples and self._late():
                    break
                known = self.samples.get(index, {})
                self.progress.measuring(self.candidates[index], len(known) + 1)
                try:
                    ms = self.measurer.sample(self.candidates[index])
                except Exception as error:  # frameworks raise anything
                    self._skip(index, error)
                else:
                    self.samples[index] = {**known, self._round: ms}
            self.keep([(self._measured(i, timing), timing) for i, timing in timings(self.samples).items()])
        for index in tuple(self._open):
            if index not in self.samples:  # the budget ended before its turn came
                self._leave(index)

    def _drop(self, slack: float) -> None:
        """Close those that can no longer be chosen, with this much slack."""
        measured, now = timings(self.samples), self._known(cautious=False)
        fastest = min((measured[i] for i in self._open), key=lambda timing: timing.ms, default=None)
        for index in tuple(self._open):
            least = measured[index].ms * (1 - measured[index].doubt)
            if fastest is not None and least > self._bar(now[index], now) * (1 + fastest.doubt) * slack:
                self._close(index)

    def _close(self, index: int) -> None:
        self._leave(index)
        timing = timings(self.samples)[index]
        self.progress.measured(self._measured(index, timing), timing.spread_ms)

    def _skip(self, index: int, error: Exception) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        self.skipped[index] = reason
        self.samples.pop(index, None)
        self._leave(index)
        self.progress.skipped(self.candidates[index], reason)

    def _leave(self, index: int) -> None:
        if index in self._open:
            self._open.remove(index)
        self.measurer.close(self.candidates[index])

    def _late(self) -> bool:
        return self._end is not None and monotonic() > self._end

    def _measured(self, index: int, timing: Timing) -> Candidate:
        return replace(self.candidates[index], measured_ms=timing.ms, spread_ms=timing.spread_ms, runs=timing.runs)
