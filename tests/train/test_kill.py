"""A run that is killed again and again, by kill -9, is the run that was never killed: every bit of it.

FLASHIR_KILLS=50 pytest -n 0 -s -m slow tests/train/test_kill.py
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashir.models.checkpoint import is_run, load_checkpoint, load_state
from flashir.train.metrics import as_dict
from flashir.train.run_folder import RunFolder

KILLS = int(os.environ.get("FLASHIR_KILLS", "5"))
STEPS = 12 * KILLS
MODEL = ("flash", "--size", "tiny", "-s", "vocab=256", "--chunk", "16")
RECIPE = (
    "--batch",
    "4",
    "--rows",
    "2",
    "--seq-len",
    "64",
    "--steps",
    STEPS,
    "--save-every",
    "7",
    "--validate-every",
    "5",
)


def start(run: Path, text: Path) -> subprocess.Popen[bytes]:
    begin = (*MODEL, *RECIPE, "--data", text, "--target", "torch:cpu", "-o", run)
    words = ("train", "--resume", run) if is_run(run) else ("train", *begin)
    line = (sys.executable, "-m", "flashir", *map(str, words))
    environment = {**os.environ, "FLASHIR_CACHE": str(text.parent / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def steps_of(run: Path) -> int:
    curve = RunFolder(run).curve.path
    return curve.read_bytes().count(b"\n") if curve.exists() else 0


def end(process: subprocess.Popen[bytes], code: int) -> None:
    errors = process.communicate()[1].decode()
    assert process.returncode == code, errors


def kill(process: subprocess.Popen[bytes], run: Path, draw: random.Random) -> None:
    """Kill a run at a random moment: while it starts, or some steps on."""
    wanted = 0 if draw.random() < 0.2 else steps_of(run) + draw.randrange(1, 12)
    while wanted and process.poll() is None and steps_of(run) < wanted:
        time.sleep(0.002)
    time.sleep(draw.random() * (0.05 if wanted else 2.0))
    process.kill()
    end(process, -9)


def finished(run: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The curve without its clocks, and parameters with the state of the optimiser."""
    folder = RunFolder(run)
    lines = [
        {name: value for name, value in as_dict(line).items() if name != "seconds"} for line in folder.curve.lines()
    ]
    found = load_checkpoint(folder.newest())
    return lines, {**found.params, **load_state(folder.newest(), found.params).optimizer}


@pytest.mark.slow
def test_a_run_that_is_killed_is_the_run_that_was_not(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} is {n * n}, and its words are no {n % 7}.\n" for n in range(4000)))
    runs = [tmp_path / name for name in ("undisturbed", "killed")]
    end(start(runs[0], text), 0)
    draw = random.Random(0)
    for _ in range(KILLS):
        kill(start(runs[1], text), runs[1], draw)
    end(start(runs[1], text), 0)
    print(f"\n{KILLS} kills, {STEPS} steps")
    (wanted, params), (got, others) = map(finished, runs)
    assert len(got) == STEPS and got == wanted
    assert params.keys() == others.keys()
    for name in params:
        assert np.array_equal(params[name], others[name], equal_nan=True), name
    left = [path.name for path in runs[1].rglob(".*")]
    assert left == []
