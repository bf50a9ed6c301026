"""The command lines of benchmarks: a mistake is one message, and exit code 2."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("plan_quality", "--target", "nope"), "error: a target must look like 'onnx:cpu'"),
        (("contractions", "--model", "nope"), "error: "),
        (("contractions", "--rounds", "0"), "error: argument --rounds: must be a whole number from 1, got '0'"),
        (
            ("learning_curves", "--data", "no.txt", "--steps", "x"),
            "error: argument --steps: must be a whole number from 1",
        ),
        (("data_speed", "no.txt"), "no.txt"),
    ],
)
def test_a_mistake_is_one_message(line: tuple[str, ...], said: str) -> None:
    name, *options = line
    command = (sys.executable, "-m", f"flashir.experiments.{name}", *options)
    made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 2 and said in made.stderr and "Traceback" not in made.stderr
    assert made.stdout == ""
