"""The command lines of benchmarks: a mistake is one message, and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from flashir.experiments.command import guarded


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
def test_a_mistake_is_one_message(
    line: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", list(line))
    with pytest.raises(SystemExit) as ended:
        guarded(import_module(f"flashir.experiments.{line[0]}").main)
    told = capsys.readouterr()
    assert ended.value.code == 2 and said in told.err and told.out == ""


def test_a_mistake_ends_the_process_without_a_traceback() -> None:
    command = (sys.executable, "-m", "flashir.experiments.plan_quality", "--target", "nope")
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
