"""The contest finds the best of many by measuring few, interleaved; failures and the budget cost it little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count, pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashir.autotune import contest
from flashir.autotune.contest import ROUNDS, Contest
from flashir.ir.settings import Settings
from flashir.ops.attention.chunk_choices import STRATEGIES
from flashir.planning.candidates import QUALITY_SLACK, Candidate, best, preferred
from flashir.planning.measurements.statistics import Timing
from tests.tune.support import CHUNKS, GRID, FakeMeasurer, Log, NoisyMeasurer, candidates, choice_of, chosen

FLAT = {each: 10.0 + i for i, each in enumerate(GRID)}
GIB = 2**30
LIMIT = 5  # a third of fifteen


def measured(found: tuple[Candidate, ...]) -> list[Candidate]:
    return [each for each in found if each.measured_ms is not None]


def times(low: float, high: float) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(low, high), min_size=len(GRID), max_size=len(GRID))


@given(times(1, 100), times(0.99, 1.01), st.floats(0.1, 10), st.sampled_from(("fastest", "quality")))
def test_within_two_percent_where_predictions_are_within_one(
    predicted: list[float], errors: list[float], level: float, policy: str
) -> None:
    real = {each: ms * error * level for each, ms, error in zip(GRID, predicted, errors, strict=True)}
    fake = FakeMeasurer(real)
    found = Contest(candidates(dict(zip(GRID, predicted, strict=True))), fake, policy).run()
    winner = best(measured(found), policy)
    slack = 1.0 if policy == "fastest" else QUALITY_SLACK
    assert winner.measured_ms is not None
    assert winner.measured_ms <= 1.021 * slack * min(real.values())
    assert len(set(fake.opened)) == len(fake.opened) <= LIMIT + 1
    assert not fake.open_now
    assert choice_of(best(found, policy)) == choice_of(winner), "the plan that is made later chooses the same"


@given(
    st.lists(st.floats(0.8, 1.25), min_size=5, max_size=5),
    st.lists(st.floats(1 / 1.4, 1.4), min_size=3, max_size=3),
    st.lists(st.floats(0, 0.3), min_size=4, max_size=4),
    st.integers(0, 4),
)
def test_strategies_that_are_predicted_wrongly_are_found_out(
    by_chunk: list[float], by_strategy: list[float], steps: list[float], lowest: int
) -> None:
    """Errors of 40% up and down by strategy, and chunks around a lowest: what a real model and device look like."""
    chunks = [1.0] * len(CHUNKS)
    for i in range(lowest + 1, len(CHUNKS)):
        chunks[i] = chunks[i - 1] * (1 + steps[i - 1])
    for i in reversed(range(lowest)):
        chunks[i] = chunks[i + 1] * (1 + steps[i])
    predicted = {c: 10 * chunks[CHUNKS.index(c["chunk"])] for c in GRID}
    real = {c: ms * by_strategy[STRATEGIES.index(c["cumsum"])] for c, ms in predicted.items()}
    found = Contest(candidates(predicted), FakeMeasurer(real), "fastest").run()
    fastest = best(measured(found), "fastest")
    assert fastest.measured_ms is not None
    assert fastest.measured_ms <= 1.02 * min(real.values())


@given(st.lists(st.floats(1 / 1.4, 1.4), min_size=3, max_size=3))
def test_of_the_strategies_of_one_chunk_the_fastest_is_found(errors: list[float]) -> None:
    """Which takes all three: more than a third where there are few candidates."""
    real = {chosen(64, way): 10 * error for way, error in zip(STRATEGIES, errors, strict=True)}
    found = Contest(candidates(dict.fromkeys(real, 10.0)), FakeMeasurer(real), "fastest").run()
    fastest = best(measured(found), "fastest")
    assert fastest.measured_ms is not None
    assert fastest.measured_ms <= 1.02 * min(real.values())


@pytest.mark.parametrize(("count", "limit"), [(1, 1), (2, 2), (3, 3), (6, 3), (9, 3), (10, 4), (15, 5)])
def test_how_many_are_measured(count: int, limit: int) -> None:
    few = dict.fromkeys(GRID[:count], 10.0)
    assert Contest(candidates(few), FakeMeasurer(few)).limit == limit


def test_a_third_is_measured_at_most() -> None:
    assert len(measured(Contest(candidates(FLAT), FakeMeasurer(FLAT)).run())) <= LIMIT
    alone = {chosen(64, "native"): 1.0}
    assert len(measured(Contest(candidates(alone), FakeMeasurer(alone)).run())) == 1


def test_what_is_predicted_far_behind_is_not_measured() -> None:
    predicted = {each: 100.0 if each["chunk"] != 128 else 10.0 for each in GRID}
    fake = FakeMeasurer(predicted)
    Contest(candidates(predicted), fake).run()
    assert {each["chunk"] for each in fake.opened} == {128}


def test_samples_are_interleaved() -> None:
    fake = FakeMeasurer(dict.fromkeys(GRID, 5.0))
    Contest(candidates(FLAT), fake).run()
    assert all(one != other for one, other in pairwise(fake.order))
    assert max(fake.order.count(each) for each in GRID) >= ROUNDS


def test_whoever_is_clearly_behind_is_dropped_early() -> None:
    real = {each: 50.0 if each["cumsum"] == "scan" else 10.0 for each in GRID}
    fake = FakeMeasurer(real)
    Contest(candidates(dict.fromkeys(GRID, 10.0)), fake, "fastest").run()
    slow = [each for each in fake.opened if each["cumsum"] == "scan"]
    assert slow
    assert all(fake.order.count(each) <= contest.SCREENING for each in slow)


def test_a_machine_that_slows_down_halfway_changes_nothing() -> None:
    real = {each: 10.0 + 2 * i for i, each in enumerate(GRID)}
    ticks = count()

    class Slowing(FakeMeasurer):
        def sample(self, candidate: Candidate) -> float:
            return super().sample(candidate) * (1 if next(ticks) < 9 else 3)

    found = Contest(candidates(FLAT), Slowing(real), "fastest").run()
    assert choice_of(best(measured(found), "fastest")) == GRID[0]


def test_one_that_fails_is_skipped_and_the_others_go_on() -> None:
    log = Log()
    fake = FakeMeasurer(FLAT, broken=(GRID[0],), failing=(GRID[1],))
    fight = Contest(candidates(FLAT), fake, "fastest", log)
    found = fight.run()
    assert choice_of(best(measured(found), "fastest")) == GRID[2]
    assert log.of("skipped") == [(GRID[0], "no memory for this"), (GRID[1], "out of memory")]
    assert fight.skipped == {0: "no memory for this", 1: "out of memory"}
    assert not fake.open_now


def test_where_all_fail_nothing_is_measured() -> None:
    fight = Contest(candidates(FLAT), FakeMeasurer(FLAT, broken=GRID))
    assert not measured(fight.run())
    assert len(fight.skipped) == len(GRID)


def earlier(spread: float, times: Sequence[float] = (10.0, 14.0, 20.0, 30.0, 40.0)) -> dict[int, Timing]:
    return {i: Timing(ms, spread * ms, ROUNDS if i == 0 else contest.SCREENING) for i, ms in enumerate(times)}


def tuned(predicted: Mapping[Settings, float], real: Mapping[Settings, float], policy: str, seed: int) -> Settings:
    """What is chosen after a contest on a noisy machine."""
    found = Contest(candidates(predicted), NoisyMeasurer(real, seed), policy).run()
    return preferred(measured(found), policy).settings


@pytest.mark.parametrize("policy", ["fastest", "quality"])
def test_on_a_noisy_machine_no_slower_candidate_than_the_planned_one_wins(policy: str) -> None:
    predicted = {each: 10 * (1 + 0.01 * i) for i, each in enumerate(GRID)}
    planned = best(candidates(predicted), policy).settings
    slack = 1.0 if policy == "fastest" else QUALITY_SLACK
    regrets = []
    for seed in range(12):
        errors = Random(seed)
        real = {each: ms * errors.choice((0.8, 1.0, 1.2)) for each, ms in predicted.items()}
        regrets.append(real[tuned(predicted, real, policy, seed)] / real[planned])
    assert max(regrets) <= slack
    assert min(regrets) < 0.85, "what is clearly faster wins"


def test_where_measurements_tell_nothing_apart_the_plan_is_kept() -> None:
    predicted = {each: 10 * (1 + 0.01 * i) for i, each in enumerate(GRID)}
    equal = dict.fromkeys(GRID, 10.0)
    kept = [tuned(predicted, equal, "fastest", seed) == GRID[0] for seed in range(12)]
    assert sum(kept) >= 11


def test_what_is_certain_already_is_not_measured_again() -> None:
    fake, log = FakeMeasurer(FLAT), Log()
    fight = Contest(candidates(FLAT), fake, "fastest", log, earlier=earlier(0.08))
    found = fight.run()
    assert fight.known
    assert not fake.opened and not log.events
    assert choice_of(best(measured(found), "fastest")) == GRID[0]


@pytest.mark.parametrize(
    "known",
    [earlier(0.4), {**earlier(0.08), 1: Timing(10.5, 1.0, 3)}, {0: Timing(10.0, 0.1, 12)}, {0: Timing(10.0, 0.0, 1)}],
    ids=["spread", "a close one", "others are hopeful", "one run"],
)
def test_what_leaves_doubt_is_measured_anew_in_turn(known: dict[int, Timing]) -> None:
    fake = FakeMeasurer(FLAT)
    fight = Contest(candidates(FLAT), fake, "fastest", earlier=known)
    found = fight.run()
    assert not fight.known
    assert len(set(fake.opened)) > 1
    assert [each.runs for each in measured(found)] == [fake.order.count(choice_of(each)) for each in measured(found)]


@pytest.mark.parametrize(("room", "together"), [(3 * GIB, 3), (2 * GIB, 2), (GIB, 1)])
@pytest.mark.parametrize("policy", ["fastest", "quality"])
def test_no_more_are_open_at_once_than_memory_holds(room: int, together: int, policy: str) -> None:
    real = {each: 10.0 + (i * 7) % 15 for i, each in enumerate(GRID)}
    fake = FakeMeasurer(real)
    fight = Contest(candidates(FLAT, GIB), fake, policy, room=room)
    found = fight.run()
    assert fake.most_open == together
    assert not fight.skipped
    assert 1 < len(measured(found)) <= LIMIT + 1
    assert len(set(fake.opened)) == len(fake.opened)
    assert choice_of(best(measured(found), policy)) == GRID[0]


def test_strategies_that_are_timed_one_at_a_time_are_all_timed() -> None:
    predicted = {chosen(64, way): 10.0 for way in STRATEGIES}
    real = dict(zip(predicted, (30.0, 20.0, 10.0), strict=True))
    fake = FakeMeasurer(real)
    found = Contest(candidates(predicted, GIB), fake, "fastest", room=GIB).run()
    assert choice_of(best(measured(found), "fastest")) == chosen(64, "native")
    assert len(measured(found)) == 3


def test_one_that_memory_does_not_hold_alone_is_skipped_and_the_others_go_on() -> None:
    log, fake = Log(), FakeMeasurer(FLAT)
    found = [replace(each, peak_bytes=GIB if i else 9 * GIB) for i, each in enumerate(candidates(FLAT))]
    fight = Contest(found, fake, "fastest", log, room=8 * GIB)
    assert choice_of(best(measured(fight.run()), "fastest")) == GRID[1]
    assert fight.skipped == {0: "needs 9.00 GiB, and 8.00 GiB are free"}
    assert log.of("skipped") == [(GRID[0], fight.skipped[0])]
    assert GRID[0] not in fake.opened


def test_progress_is_told_in_order() -> None:
    log = Log()
    Contest(candidates(FLAT), FakeMeasurer(FLAT), progress=log).run()
    assert log.events[0] == ("started", LIMIT)
    assert log.events[-1] == ("finished", None)
    for choice in log.of("measured"):
        own = [round for each, round in log.of("measuring") if each == choice]
        assert own == list(range(len(own)))
        assert len(own) > contest.SCREENING
    assert len(log.of("measured")) == len({each for each, _ in log.of("measuring")})


def test_the_first_rounds_are_of_one_tile_with_its_strategies() -> None:
    tiles = {
        Settings(tile=tile, cumsum=way): ms for tile, ms in ((16, 3.0), (64, 1.0), (256, 2.0)) for way in STRATEGIES
    }
    fake = FakeMeasurer(tiles)
    Contest(candidates(tiles), fake).run()
    assert fake.opened[:3] == [Settings(tile=64, cumsum=way) for way in STRATEGIES]


def test_the_budget_ends_it_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count(0.0, 10.0)
    monkeypatch.setattr(contest, "monotonic", lambda: next(clock))
    fake = FakeMeasurer(FLAT)
    found = Contest(candidates(FLAT), fake, budget_s=1.0).run()
    assert len(measured(found)) == 1
    assert not fake.open_now


def test_an_interrupt_keeps_what_was_measured() -> None:
    kept: list[tuple[Candidate, Timing]] = []

    class Interrupted(FakeMeasurer):
        def sample(self, candidate: Candidate) -> float:
            if len(self.order) == 5:
                raise KeyboardInterrupt
            return super().sample(candidate)

    log, fake = Log(), Interrupted(FLAT)
    with pytest.raises(KeyboardInterrupt):
        Contest(candidates(FLAT), fake, progress=log, keep=kept.extend).run()
    assert {choice_of(each) for each, _ in kept} == set(fake.order)
    assert not fake.open_now
    assert log.events[-1] == ("finished", None)
