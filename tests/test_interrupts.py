"""Who asks to stop is heard at a time that leaves nothing half done, and is told what there is."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from flashir.files.atomic import atomic_files, atomic_write
from flashir.interrupts import Ended, like_ctrl_c, on_interrupt, undisturbed

signals = pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
ASKS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@signals
def test_a_signal_that_would_end_the_process_is_raised_and_the_second_one_ends_it() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with like_ctrl_c():
        with pytest.raises(Ended) as stopped:
            signal.raise_signal(signal.SIGTERM)
        assert stopped.value.number == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before


@signals
def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with like_ctrl_c():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@signals
@ASKS
def test_an_interrupt_that_a_finaliser_swallows_comes_again(number: int) -> None:
    class Finalised:
        def __del__(self) -> None:
            signal.raise_signal(number)
            time.sleep(0.001)

    def work() -> None:
        Finalised()
        time.sleep(10)

    before = sys.unraisablehook
    with like_ctrl_c(), pytest.raises(KeyboardInterrupt):
        work()
    assert sys.unraisablehook is before


@signals
@ASKS
def test_what_is_undisturbed_is_done_before_a_signal_is_heard(number: int) -> None:
    done = []

    def work() -> None:
        with undisturbed():
            signal.raise_signal(number)
            signal.raise_signal(number)
            done.append("first")
        done.append("second")

    with like_ctrl_c(), pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["first"]


def test_the_innermost_note_on_an_interrupt_wins() -> None:
    with pytest.raises(KeyboardInterrupt) as stopped, on_interrupt("all"), on_interrupt(lambda: "half"):
        raise KeyboardInterrupt
    assert stopped.value.__notes__ == ["half"]
    with pytest.raises(ValueError, match="no") as failed, on_interrupt("all"):
        raise ValueError("no")
    assert not hasattr(failed.value, "__notes__")


@signals
@ASKS
def test_files_that_belong_together_get_all_their_names_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Also those that are written around others, as a page is around the model that it shows."""
    from flashir.files import atomic

    put, writers = atomic._put, {name: lambda file: file.write(b"new") for name in ("model", "step")}

    def disturbed(written: Path, path: Path) -> None:
        put(written, path)
        signal.raise_signal(number)

    monkeypatch.setattr(atomic, "_put", disturbed)
    with like_ctrl_c(), pytest.raises(KeyboardInterrupt):
        atomic_write(
            tmp_path / "page", lambda file: file.write(b"new"), lambda _: atomic_files(tmp_path / "in", writers)
        )
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"page", "in/model", "in/step"}


@signals
@ASKS
def test_a_signal_while_files_are_checked_leaves_nothing(tmp_path: Path, number: int) -> None:
    """Though a file of its own name was whole on disk before that."""

    def write(file: object) -> None:
        atomic_write(tmp_path / "out/data", lambda data: data.write(b"new"))

    with like_ctrl_c(), pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "out/model", write, lambda _: signal.raise_signal(number))
    assert {path.name for path in tmp_path.rglob("*")} == {"out", "data"}
