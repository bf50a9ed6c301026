"""Who is timed when, what a failure costs, and that no process stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

import flashir
from flashir.bench.case import PROCESS_BYTES, Case
from flashir.bench.process import Answer
from flashir.bench.reason import reason
from flashir.bench.record import Row
from flashir.bench.run import Bench
from flashir.errors import TargetError

GRAPH = flashir.model("flash", size="tiny", chunk=64, cumsum="scan")
PLENTY = 2**40


def case(name: str, **row: object) -> Case:
    made = Row(name, "onnx:cpu", 1, 64, predicted_ms=1.0, predicted_bytes=1000)
    return Case(replace(made, **row), GRAPH)  # type: ignore[arg-type]


class Fake:
    """Writes what happens to it into a log; fails when told to."""

    def __init__(self, case: Case, log: list[str], fails: str) -> None:
        self.name, self.log, self.fails = case.row.system, log, fails
        self.samples = 0
        self._do("start")

    def ready(self) -> Answer:
        self._do("ready")
        return {"baseline_bytes": 100}

    def sample(self) -> Answer:
        self.samples += 1
        self._do(f"{self.samples}")
        return {"ms": 1.0 * self.samples, "peak_bytes": 100 + 10 * self.samples}

    def close(self) -> None:
        self.log.append(f"{self.name} close")

    def _do(self, what: str) -> None:
        self.log.append(f"{self.name} {what}")
        if self.fails == f"{self.name} {what}":
            raise KeyboardInterrupt if what == "2" and self.name == "stop" else TargetError("it broke")


def bench(*cases: Case, fails: str = "", free: Callable[[], int] = lambda: PLENTY) -> tuple[Bench, list[str]]:
    log: list[str] = []
    return Bench(cases, 2, start=lambda case: Fake(case, log, fails), free=free), log


def test_cases_are_timed_in_turn() -> None:
    made, log = bench(case("a"), case("b"))
    rows = made.run()
    assert log == ["a start", "a ready", "b start", "b ready", "a 1", "b 1", "a 2", "b 2", "a close", "b close"]
    assert [row.samples_ms for row in rows] == [(1.0, 2.0)] * 2
    assert [(row.baseline_bytes, row.peak_bytes, row.memory, row.heat) for row in rows] == [(100, 120, 20, 1)] * 2


@pytest.mark.parametrize("error", [MemoryError(), KeyError("baseline_bytes"), RuntimeError("no  luck")])
def test_whatever_goes_wrong_with_a_case_is_a_row(error: Exception) -> None:
    class Broken(Fake):
        def ready(self) -> Answer:
            raise error

    log: list[str] = []
    made = Bench(
        [case("a"), case("b")], 1, start=lambda case: (Broken if case.row.system == "a" else Fake)(case, log, "")
    )
    a, b = made.run()
    words = {"MemoryError": "MemoryError", "KeyError": "KeyError: 'baseline_bytes'", "RuntimeError": "no luck"}
    assert words[type(error).__name__] in a.failed and "a close" in log and b.samples_ms


def test_a_reason_is_short_enough_for_a_record() -> None:
    assert len(reason(RuntimeError("x" * 10**6))) < 3000


def test_no_round_is_run_when_nobody_is_left() -> None:
    told: list[str] = []
    made, _ = bench(case("a"), fails="a 1")
    made.rounds, made.progress = 5, lambda work, done, total: told.append(work)
    made.run()
    assert sum("round" in what for what in told) == 1


def test_what_is_known_is_handed_on_round_by_round() -> None:
    seen: list[list[int]] = []
    made, _ = bench(case("a"), case("stop"), fails="stop 2")
    made.on_change = lambda rows: seen.append([len(row.samples_ms) for row in rows])
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert seen == [[0, 0], [0, 0], [1, 1], [2, 1]]


@pytest.mark.parametrize("when", ["start", "ready", "1", "2"])
def test_a_case_that_fails_is_a_row_and_the_others_go_on(when: str) -> None:
    made, log = bench(case("a"), case("b"), fails=f"a {when}")
    a, b = made.run()
    assert a.failed == "it broke" and a.samples_ms == ((1.0,) if when == "2" else ())
    assert b.samples_ms == (1.0, 2.0) and not b.problem
    assert log.count("a close") == (when != "start") and log.count("b close") == 1


def test_what_memory_does_not_hold_beside_the_others_waits_for_the_next_heat() -> None:
    room = 2 * PROCESS_BYTES + 4000
    open_now: list[str] = []

    class Counting(Fake):
        def ready(self) -> Answer:
            open_now.append(self.name)
            return super().ready()

        def close(self) -> None:
            open_now.remove(self.name)
            super().close()

    log: list[str] = []
    cases = [case(name) for name in "abc"]
    made = Bench(
        cases, 1, start=lambda case: Counting(case, log, ""), free=lambda: room - PROCESS_BYTES * len(open_now)
    )
    rows = made.run()
    assert [row.heat for row in rows] == [1, 2, 3]  # one runs, and what it may want again stays free
    assert log.index("a close") < log.index("b start")
    assert all(row.samples_ms for row in rows)


def test_what_memory_never_holds_is_left_out_with_the_number() -> None:
    huge = case("huge", predicted_bytes=3 * 2**30)
    made, log = bench(huge, case("b"), free=lambda: 2**30)
    rows = made.run()
    assert rows[0].left_out == "needs 3.50 GiB, and 1.00 GiB are free" and not rows[0].failed
    assert rows[1].samples_ms and not any(line.startswith("huge") for line in log)


def test_what_the_plan_left_out_is_not_tried() -> None:
    made, log = bench(case("a", left_out="too large"))
    assert made.run()[0].left_out == "too large" and log == []


def test_an_interrupt_closes_all_and_keeps_what_was_measured() -> None:
    made, log = bench(case("a"), case("stop"), fails="stop 2")
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert log[-2:] == ["a close", "stop close"]
    assert [row.samples_ms for row in made.rows] == [(1.0, 2.0), (1.0,)]


def test_cases_on_one_card_share_its_memory() -> None:
    card = [replace(case(name, predicted_bytes=50 * 2**30), row=replace(case(name).row, target="torch:h100",
            predicted_bytes=50 * 2**30)) for name in "ab"]  # fmt: skip
    made, _ = bench(*card)
    rows = made.run()
    assert [row.heat for row in rows] == [1, 2]
    assert [row.memory for row in rows] == [20, 20]
