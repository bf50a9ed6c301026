"""Real processes: one that works, some that die, and none that stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import flashir
from flashir.bench.case import Case, Grid
from flashir.bench.draft import SECONDS
from flashir.bench.process import COMMAND, Process
from flashir.bench.record import read_record
from flashir.bench.run import Bench
from flashir.errors import TargetError

windows = pytest.mark.skipif(sys.platform == "win32", reason="no such signals")


def tiny(**grid: object) -> Case:
    model = flashir.model("flash", size="tiny", depth=1, chunk=64, cumsum="scan")
    settings = {"models": {"flash": model}, "targets": ["onnx:cpu"], "lengths": [64], **grid}
    return Grid(**settings).cases()[0]  # type: ignore[arg-type]


@windows
def test_it_runs_a_case_until_it_is_killed() -> None:
    process = Process(tiny())
    try:
        baseline = process.ready()["baseline_bytes"]
        found = [process.sample() for _ in range(2)]
        assert baseline > 2**24
        assert all(each["ms"] > 0 and each["peak_bytes"] >= baseline for each in found)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(TargetError, match="ended by SIGKILL, possibly because memory ran out"):
            process.sample()
    finally:
        process.close()
    process.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('no luck')", "its process ended with code 1: no luck"),
        ("import os; os._exit(3)", "its process ended with code 3"),
        ("print('Hello')", "its process ended with code 0"),
        ('import sys; print(\'{"problem": "too large"}\')', "too large"),
    ],
)
def test_one_that_dies_says_how(code: str, said: str) -> None:
    process = Process(tiny(), command=(sys.executable, "-c", code))
    try:
        with pytest.raises(TargetError) as raised:
            process.ready()
        assert raised.value.message == said
    finally:
        process.close()


def test_one_that_hangs_is_ended_and_says_so() -> None:
    answers = "import time; input(); print('{}', flush=True); time.sleep(3600)"
    process = Process(tiny(), 2.0, (sys.executable, "-c", answers))
    try:
        assert process.ready() == {}
        with pytest.raises(TargetError, match="no answer within 2 s; limit sets how long one may take"):
            process.sample()
    finally:
        process.close()


def test_a_case_has_the_longer_the_longer_it_is_predicted_to_take() -> None:
    case, command = tiny(), (sys.executable, "-c", "")
    for predicted, limit in ((1.0, 600.0), (60_000.0, 6000.0), (1e12, threading.TIMEOUT_MAX)):
        process = Process(replace(case, row=replace(case.row, predicted_ms=predicted)), command=command)
        process.close()
        assert process.limit == min(limit, threading.TIMEOUT_MAX)


def test_what_a_framework_raises_is_a_row() -> None:
    model = flashir.model("flash-quad", size="tiny", depth=1, qk_scale="max_len", max_len=32)
    case = replace(tiny(), graph=model)
    (row,) = Bench([case], 1).run()
    assert "ONNX Runtime refuses an input" in row.failed and not row.samples_ms


def test_it_ends_when_its_parent_is_gone() -> None:
    made = subprocess.run(COMMAND, input=b"", capture_output=True, timeout=60, check=False)
    assert (made.returncode, made.stdout, made.stderr) == (0, b"", b"")


@windows
@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interrupt_leaves_no_orphan_and_no_half_written_file(tmp_path: Path, name: str) -> None:
    command = (sys.executable, "-m", "flashir", "bench", "flash", "--size", "tiny", "--lengths", "64")
    line = (*command, "--rounds", "1000000", "-o", str(tmp_path))
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as made:
        assert made.stderr is not None
        while "round 3" not in made.stderr.readline():
            assert made.poll() is None
        workers = children(made.pid)
        assert workers
        made.send_signal(signal.Signals[name])
        out, errors = made.communicate(timeout=60)
    assert made.returncode == 130 and "Traceback" not in errors and "flash" in out
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".html", ".json"]
    (results,) = tmp_path.glob("*.json")
    assert not read_record(results).complete and len(read_record(results).rows[0].samples_ms) >= 2
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


@windows
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_a_parent_that_is_killed_leaves_no_orphan_and_what_was_measured(tmp_path: Path) -> None:
    line = (
        sys.executable,
        "-m",
        "flashir",
        "bench",
        "flash",
        "--size",
        "tiny",
        "--lengths",
        "64",
        "--rounds",
        "1000000",
        "-o",
        str(tmp_path),
    )
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as made:
        assert made.stderr is not None
        while "round 3" not in made.stderr.readline():
            assert made.poll() is None
        workers = children(made.pid)
        assert workers
        time.sleep(SECONDS + 0.5)
        made.kill()
    (results,) = tmp_path.glob("*.json")
    assert not read_record(results).complete and read_record(results).rows[0].samples_ms
    ends = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < ends
        time.sleep(0.1)


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in path.read_text().split()] if path.exists() else []
