"""The contest: find the best candidate by measuring few.

The cost model says where to look, and measuring says by how much it is off. First the chunk or tile that the plan would
choose is measured with every strategy, as the model errs most about those. What that shows corrects the predictions
of the rest; then, one at a time, whatever would be chosen now, or could still turn the choice, until there is nothing
of the kind or a third of all is measured, but three at least. Those that can still win are timed until it is clear, or
often enough; those that memory does not hold together, one after the other, which compares them a little worse.
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
"""Rounds after which a candidate is dropped that is clearly behind."""
ROUNDS = 12
"""Rounds of those that stay in contention."""
BEHIND = 1.1
"""How far behind what could be chosen a candidate is dropped after screening."""
SHARE = 3
"""One in so many candidates is measured, where that is not too few to choose from."""
FEWEST = 3
"""So many are measured even where that is more than this share: the strategies of one chunk, about which the cost model
errs most. With two, the third would be ruled out by a prediction that is 40% off."""
FIRST = 2
"""At least so many are in the first rounds: one alone cannot tell a slow candidate from a slow machine."""
SURE = 0.05
"""The doubt up to which a candidate that could be chosen need not be timed again: the slack of the policy."""
DOUBT = 0.15
"""The share by which a corrected prediction may be too slow."""
DOUBT_NEW = 0.5
"""The same for a strategy of which nothing was measured yet."""


Keep = Callable[[Sequence[tuple[Candidate, Timing]]], None]


@dataclass
class Contest:
    """One contest. `run` it once.

    Args:
        candidates: in the order of chunks; their `ms` is what is expected of each.
        measurer: times them.
        policy: by which one will be chosen.
        progress: is told.
        budget_s: seconds after which no more is begun; the first candidate is timed at least once.
        keep: is given every candidate that was measured so far with its timing, after every round.
        room: bytes of memory that those that are open may take together; one that needs more is skipped.
        earlier: timings of other tuners. Where they leave nothing to find out, nothing is measured.
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
        """How many candidates are measured; one more only where the choice would fall on one that was not."""
        return min(len(self.candidates), max(FEWEST, ceil(len(self.candidates) / SHARE)))

    def run(self) -> tuple[Candidate, ...]:
        """Every candidate: those that were measured with their time, the others with corrected predictions."""
        self._end = None if self.budget_s is None else monotonic() + self.budget_s
        self.known = self._is_known()
        if self.known:
            return self._known(cautious=True)
        self.progress.started(self.limit)
        try:
            while wave := self._wave():
                self._admit(wave)
                self._time(SCREENING)
                self._drop(BEHIND)
            self._decide()
            for index in tuple(self._open):
                self._close(index)
        finally:
            for index in self._open:  # where an error or Ctrl-C came
                self.measurer.close(self.candidates[index])
            self.progress.finished()
        return self._known(cautious=True)

    def _is_known(self) -> bool:
        """Whether earlier timings decide: those that could be chosen are certain, and no other is worth a look.

        Otherwise they are only expectations: times of different hours compare badly, so all are timed anew, in turn.
        """
        self.samples = {i: {0: timing.ms} for i, timing in self.earlier.items()}
        if self.samples and not self._wave():
            now = self._known(cautious=False)
            doubted = {i: timing for i, timing in self.earlier.items() if not timing.doubt <= SURE}
            if all(each.ms * (1 - each.doubt) > self._bar(now[i], now) for i, each in doubted.items()):
                return True
        self.samples = {}
        return False

    def _wave(self) -> list[int]:
        """What to measure next; nothing where the choice is certain, or enough was measured."""
        if self._late() and self.samples:
            return []
        if not self.samples:
            return self._first()
        left = [i for i in self._eligible() if i not in self.samples]
        if len(self.samples) < self.limit:
            now = self._known(cautious=False)
            hopeful = [i for i in left if self._hope(now[i], now) < 1]
            favourite = self._best(now)
            return [favourite] if favourite in hopeful else sorted(hopeful, key=lambda i: self._hope(now[i], now))[:1]
        favourite = self._best(self._known(cautious=True))
        return [favourite] if favourite in left else []

    def _first(self) -> list[int]:
        """The chunk or tile that would be chosen, with each strategy not hopeless; others too, if those are few."""
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
        """Time those that are open until it is clear which can still be chosen, or often enough."""
        while self._undecided():
            self._time(SCREENING)
            self._drop(1.0)

    def _undecided(self) -> bool:
        least = min((len(self.samples[i]) for i in self._open), default=ROUNDS)
        alone = len(self._open) == 1 and len(self.samples) > 1 and not self._crowded  # one that left may be as good
        return least < ROUNDS and not alone and not self._late()

    def _eligible(self) -> list[int]:
        return [i for i in range(len(self.candidates)) if i not in self.skipped]

    def _best(self, now: Sequence[Candidate]) -> int:
        """Which one the policy prefers, of those that were not skipped."""
        return now.index(best([now[i] for i in self._eligible()], self.policy))

    def _hope(self, candidate: Candidate, now: Sequence[Candidate]) -> float:
        """The least time that a candidate may take, over what it must not exceed to be chosen."""
        seen = any(strategies(now[i]) == strategies(candidate) for i in self.samples)
        return candidate.ms * (1 - (DOUBT if seen else DOUBT_NEW)) / self._bar(candidate, now)

    def _bar(self, candidate: Candidate, now: Sequence[Candidate]) -> float:
        """The milliseconds that a candidate must not exceed to be chosen, by what was measured so far."""
        measured = [now[i] for i in self.samples]
        fastest, chosen = min(each.ms for each in measured), best(measured, self.policy)
        if self.policy == "fastest" or quality(candidate) < quality(chosen):
            return fastest
        return chosen.ms if quality(candidate) == quality(chosen) else QUALITY_SLACK * fastest

    def _known(self, *, cautious: bool) -> tuple[Candidate, ...]:
        """All candidates as they are known now."""
        found = timings(self.samples)
        ratios = {i: timing.ms / self.candidates[i].ms for i, timing in found.items()}
        made = [self._measured(i, found[i]) if i in found else each for i, each in enumerate(self.candidates)]
        return corrected(made, ratios, cautious=cautious)

    def _admit(self, wave: Sequence[int]) -> None:
        for index in wave:
            if (self._late() and self._open) or not self._has_room(index):
                return
            self.progress.measuring(self.candidates[index], 0)
            try:
                self._fits(index)
                self.measurer.open(self.candidates[index])
            except Exception as error:  # whatever a framework raises
                self._skip(index, error)
            else:
                self._open.append(index)

    def _fits(self, index: int) -> None:
        """Raises MemoryError where a candidate does not, even alone."""
        needed = self.candidates[index].peak_bytes
        if needed > self.room:
            raise MemoryError(f"needs {gigabytes(needed)}, and {gigabytes(self.room)} are free")

    def _has_room(self, index: int) -> bool:
        """Whether a candidate may be opened: where others are in the way, they are timed to the end, and the slow go.

        Those that were not timed yet go first: the candidate is thought of again when it is known how they do.
        """
        needed = self.candidates[index].peak_bytes
        while self._open and needed <= self.room < needed + sum(self.candidates[i].peak_bytes for i in self._open):
            if any(i not in self.samples for i in self._open):
                return False
            self._crowded = True
            self._decide()
            if self._open:
                found = timings(self.samples)
                self._close(max(self._open, key=lambda i: found[i].ms))
        return True

    def _time(self, rounds: int) -> None:
        """So many rounds over all that are open, one sample of each in turn: noise hits all alike."""
        for _ in range(rounds):
            self._round += 1
            for index in tuple(self._open):
                if self.samples and self._late():
                    break
                known = self.samples.get(index, {})
                self.progress.measuring(self.candidates[index], len(known) + 1)
                try:
                    ms = self.measurer.sample(self.candidates[index])
                except Exception as error:  # whatever a framework raises
                    self._skip(index, error)
                else:
                    self.samples[index] = {**known, self._round: ms}
            self.keep([(self._measured(i, timing), timing) for i, timing in timings(self.samples).items()])
        for index in tuple(self._open):
            if index not in self.samples:  # the budget ended before its turn came
                self._leave(index)

    def _drop(self, slack: float) -> None:
        """Close those that can no longer be chosen, with this much slack."""
        found, now = timings(self.samples), self._known(cautious=False)
        sure = min((found[i] for i in self._open), key=lambda each: each.ms, default=None)
        for index in tuple(self._open):
            least = found[index].ms * (1 - found[index].doubt)
            if sure is not None and least > self._bar(now[index], now) * (1 + sure.doubt) * slack:
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
