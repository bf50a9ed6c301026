"""flashir train under torchrun: two processes are the run of one, one voice tells what went wrong, and none hangs.

pytest -n 0 -s -m slow tests/train/test_processes.py
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flashir.models.checkpoint import is_run, load_checkpoint, step_of
from flashir.train.metrics import Line
from flashir.train.run_folder import RunFolder

pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]
LOSSES = 1e-5
PATIENCE_S = 300
STEPS = 60
"""Long enough that a run is not over when a busy machine lets this process go on."""
MODEL = ("flash", "--size", "tiny", "--chunk", 16)
RECIPE = ("--batch", 4, "--rows", 2, "--seq-len", 64, "--steps", STEPS, "--save-every", 7, "--validate-every", 5)
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m")


def start(count: int, *words: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", *(TORCHRUN if count > 1 else ()), "flashir", "train", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        list(map(str, line)), env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """The exit code, and what was said."""
    try:
        out, errors = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"it hangs: {process.communicate()[1]}")
    return process.returncode, out, errors


def ok(count: int, *words: object) -> str:
    code, out, errors = end(start(count, *words))
    assert code == 0, errors
    assert out.startswith("run ") and out.count("validation") == 1, "one process alone speaks, and no library"
    return errors


def wait(process: subprocess.Popen[str], run: Path, steps: int) -> None:
    """Until the curve has so many lines."""
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and (not is_run(run) or len(list(RunFolder(run).curve.lines())) < steps):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    """Until it says a word."""
    assert process.stderr is not None
    while word not in (told := process.stderr.readline()):
        assert told, "it ended by itself"


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun started, by their ranks."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            given = dict(each.split("=", 1) for each in (folder / "environ").read_text().split("\0") if "=" in each)
        except (OSError, ValueError):
            continue
        if parent == process.pid and "RANK" in given:
            found[int(given["RANK"])] = int(folder.name)
    return [found[rank] for rank in sorted(found)]


@pytest.fixture
def books(tmp_path: Path) -> Path:
    path = tmp_path / "books.txt"
    path.write_text("".join(f"{n} is {n * n}, and its words are no {n % 7}.\n" for n in range(2000)))
    return path


def curve(run: Path) -> list[Line]:
    return list(RunFolder(run).curve.lines())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")
def test_two_processes_killed_and_gone_on_with_are_the_run_of_one(tmp_path: Path, books: Path) -> None:
    """Also from two to one, and back; a signal that reaches one of them stops both, saved."""
    one, two = tmp_path / "one", tmp_path / "two"
    ok(1, *MODEL, *RECIPE, "--data", books, "-o", one)

    running = start(2, *MODEL, *RECIPE, "--data", books, "-o", two)
    wait(running, two, 9)
    os.kill(workers(running)[1], signal.SIGKILL)
    code, _, told = end(running)
    assert code and told.count("error:") == 1 and "process 0 of 2 has lost another one" in told
    saved = [step_of(checkpoint) for checkpoint in RunFolder(two).checkpoints()]
    assert saved == list(range(0, saved[-1] + 1, 7)) and len(saved) > 1

    running = start(1, "--resume", two)
    wait_for(running, f"resumes after step {saved[-1]} ")
    running.send_signal(signal.SIGTERM)
    assert end(running)[0] == 130

    running = start(2, "--resume", two)
    wait_for(running, "resumes after step")
    os.kill(workers(running)[1], signal.SIGTERM)
    code, _, told = end(running)
    assert code and "error:" not in told and told.count("--resume") == 1

    assert "resumes after step" in ok(2, "--resume", two)
    assert [line.step for line in curve(two)] == list(range(1, STEPS + 1))
    for name in ("loss", "gradient_norm"):
        wanted, got = (np.array([getattr(line, name) for line in curve(run)]) for run in (one, two))
        print(f"{name}: largest difference {abs(got - wanted).max():.1e}")
        np.testing.assert_allclose(got, wanted, rtol=LOSSES, atol=LOSSES)
    assert not list(two.rglob(".*"))


def last_good(run: Path) -> int:
    """The step of the newest checkpoint, which can be read."""
    found = RunFolder(run).newest()
    load_checkpoint(found)
    return step_of(found)


@pytest.mark.slow
def test_a_lost_run_of_two_is_told_once_with_its_last_good_checkpoint(tmp_path: Path, books: Path) -> None:
    run = tmp_path / "run"
    code, out, told = end(start(2, *MODEL, *RECIPE, "--data", books, "-o", run, "--learning-rate", 1e4, "--clip", 0))
    assert code and not out and told.count("error:") == 1
    assert "step 2: the loss" in told and "the last good checkpoint is" in told and last_good(run) == 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="cannot limit the files of another process")
def test_a_full_disk_stops_two_processes_with_one_error(tmp_path: Path, books: Path) -> None:
    run = tmp_path / "run"
    running = start(2, *MODEL, *RECIPE[:-6], "--steps", 10**6, "--save-every", 7, "--data", books, "-o", run)
    wait(running, run, 9)
    resource.prlimit(workers(running)[0], resource.RLIMIT_FSIZE, (2**14, 2**14))  # no file may become longer
    code, out, told = end(running)
    assert code and not out and told.count("error:") == 1 and "File too large" in told
    done = last_good(run)
    running = start(1, "--resume", run)
    wait_for(running, f"resumes after step {done} ")
    running.send_signal(signal.SIGTERM)
    assert end(running)[0] == 130 and last_good(run) > done


@pytest.mark.slow
def test_a_first_process_that_is_killed_ends_the_other(tmp_path: Path, books: Path) -> None:
    run = tmp_path / "run"
    running = start(2, *MODEL, *RECIPE[:-6], "--steps", 10**6, "--save-every", 7, "--data", books, "-o", run)
    wait(running, run, 9)
    killed, other = workers(running)
    os.kill(killed, signal.SIGKILL)
    code, out, told = end(running)
    assert code and not out and "rank : 0 (local_rank: 0) exitcode : -9" in " ".join(told.split())
    assert not Path(f"/proc/{other}").exists() and last_good(run) % 7 == 0


@pytest.mark.slow
def test_two_processes_of_jax_are_the_run_of_one_and_end_together(tmp_path: Path, books: Path) -> None:
    pytest.importorskip("jax")
    one, two = tmp_path / "one", tmp_path / "two"
    for count, run in ((1, one), (2, two)):
        ok(count, *MODEL, *RECIPE, "--data", books, "--target", "jax:cpu", "-o", run)
    for name in ("loss", "gradient_norm"):
        wanted, got = (np.array([getattr(line, name) for line in curve(run)]) for run in (one, two))
        print(f"{name}: largest difference {abs(got - wanted).max():.1e}")
        np.testing.assert_allclose(got, wanted, rtol=LOSSES, atol=LOSSES)

    run = tmp_path / "long"
    recipe = (*RECIPE[:-6], "--steps", 10**6, "--save-every", 7)
    running = start(2, *MODEL, *recipe, "--data", books, "--target", "jax:cpu", "-o", run)
    wait(running, run, 9)
    os.kill(workers(running)[1], signal.SIGKILL)
    code, out, told = end(running)
    assert code and not out and "rank : 1 (local_rank: 1) exitcode : -9" in " ".join(told.split())
    assert last_good(run) % 7 == 0
