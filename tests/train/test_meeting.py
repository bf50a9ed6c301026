"""Processes that meet: threads stand for them, and what they agree on is counted as the backends do."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from flashir.errors import ArtefactError, FlashirError, InputError, TargetError
from flashir.machine.processes import Processes
from flashir.train import distributed as meeting
from flashir.train.distributed import ALONE, Meeting, Report
from flashir.train.signals import stopping
from flashir.train.writer import Writer

PATIENCE_S = 20
Work = Callable[[Report], str]


class Votes:
    """The trainer of so many processes at once: each round has one vote of each."""

    def __init__(self, count: int) -> None:
        self._wishes: list[bool] = []
        self._found: list[bool] = []
        self._round = threading.Barrier(count, self._count, PATIENCE_S)

    def agreed(self, wish: bool) -> bool:
        self._wishes.append(wish)
        at = len(self._found)
        self._round.wait()
        return self._found[at]

    def _count(self) -> None:
        self._found.append(any(self._wishes))
        self._wishes.clear()


def meet(monkeypatch: pytest.MonkeyPatch, *works: Work) -> list[tuple[str | FlashirError, bool]]:
    """What each process has of its work, or was told; and whether it is the one to tell that."""
    votes, count = Votes(len(works)), len(works)
    monkeypatch.setattr(meeting, "_smallest", lambda target: votes)

    def one(rank: int, work: Work) -> tuple[str | FlashirError, bool]:
        met = Meeting(Processes(rank, count))
        met.join("torch:cpu")
        try:
            return met.together(work), met.speaks
        except FlashirError as error:
            return error, met.speaks

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count), works))


def fails(error: FlashirError) -> Work:
    def work(_: Report) -> str:
        raise error

    return work


def test_all_go_on_when_all_have_done_their_work(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def slow(report: Report) -> str:
        time.sleep(0.05)
        done.set()
        return "slow"

    def quick(report: Report) -> str:
        return "quick"

    met = meet(monkeypatch, quick, slow, quick)
    assert done.is_set() and [each for each, _ in met] == ["quick", "slow", "quick"]
    assert [speaks for _, speaks in met] == [True, False, False]


def test_one_at_long_work_says_so_that_it_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "TICK_S", 0.0)

    def long(report: Report) -> str:
        for at in range(5):
            report("tokenising", at, 5)
        return "long"

    assert [each for each, _ in meet(monkeypatch, lambda report: "quick", long)] == ["quick", "long"]


@pytest.mark.parametrize("failing", [0, 1])
def test_where_one_fails_it_alone_speaks_and_the_others_stop(failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    error = InputError("no text")
    works = [fails(error) if rank == failing else (lambda report: "done") for rank in range(3)]
    met = meet(monkeypatch, *works)
    for rank, (found, speaks) in enumerate(met):
        assert speaks is (rank == failing)
        assert found is error if rank == failing else isinstance(found, TargetError)


def test_where_all_fail_the_first_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [InputError(f"no text in {rank}") for rank in range(3)]
    assert meet(monkeypatch, *map(fails, errors)) == list(zip(errors, (True, False, False), strict=True))


def test_where_two_fail_without_the_first_both_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be on two hosts."""
    met = meet(monkeypatch, lambda report: "done", *map(fails, [InputError("one"), InputError("two")]))
    assert [speaks for _, speaks in met] == [False, True, True]


def test_one_alone_needs_no_trainer_to_meet() -> None:
    heard = []

    def work(report: Report) -> str:
        report("planning", 0, 1)
        return "done"

    ALONE.join("nowhere:cpu")
    assert ALONE.together(work, lambda *words: heard.append(words)) == "done"
    assert heard == [("planning", 0, 1)]
    with pytest.raises(InputError, match="no text"):
        ALONE.together(fails(InputError("no text")))


@pytest.mark.parametrize(("local", "speaks"), [("0", True), ("1", False)])
def test_hosts_that_cannot_train_tell_so_by_one_process_each(
    local: str, speaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", local)
    met = Meeting(Processes(2, 4))
    with pytest.raises(TargetError, match="onnx:cpu cannot train"):
        met.join("onnx:cpu")
    assert met.speaks is speaks


def test_a_writer_fails_once_and_writes_no_more() -> None:
    def full() -> None:
        raise ArtefactError("full")

    writer, done = Writer(True), []
    writer.do(lambda: done.append(1))
    writer.check()
    writer.do(full)
    writer.do(lambda: done.append(2))
    assert writer.failed and done == [1]
    with pytest.raises(ArtefactError, match="full"):
        writer.check()


def test_of_several_processes_the_first_alone_writes() -> None:
    writer, done = Writer(False), []
    writer.do(lambda: done.append(1))
    writer.check()
    assert not writer.failed and done == []


def test_the_first_interrupt_says_what_comes_and_the_second_stops(capfd: pytest.CaptureFixture[str]) -> None:
    with stopping() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop() and "stopping after this step" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_where_several_train_each_may_hear_it_twice(capfd: pytest.CaptureFixture[str]) -> None:
    with stopping(alone=False) as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
    assert capfd.readouterr().err == ""


def test_handlers_come_back_whatever_happens() -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with suppress(ValueError), stopping():
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] != before
        raise ValueError
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_thread_cannot_be_asked_to_stop() -> None:
    def inside() -> bool:
        with stopping() as stop:
            return stop()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(inside).result() is False
