"""A verb that is asked to stop leaves nothing half written, says what is kept, and ends with the code of its signal."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import TINY, Cli

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)] if sys.platform != "win32" else [(2, 130)]
ASKS = pytest.mark.parametrize(("number", "code"), CODES[1:2])
Disturb = Callable[[str], None]


@pytest.fixture
def disturb(number: int, monkeypatch: pytest.MonkeyPatch) -> Disturb:
    """Has a signal come when something is called: `flashir.exporting.checks:Check.compare_all`."""

    def come(*_: Any, **__: Any) -> None:
        signal.raise_signal(number)

    def set_up(name: str) -> None:
        module, _, path = name.partition(":")
        *owners, last = path.split(".")
        owner = reduce(getattr, owners, import_module(module))  # names in flashir itself hide some of its modules
        monkeypatch.setattr(owner, last, come)

    return set_up


def stopped(cli: Cli, code: int, *line: object) -> str:
    """What it says of that, beside notes on the way."""
    told = cli(*line)
    assert (told.exit_code, told.stdout) == (code, ""), told.output
    assert "Traceback" not in told.stderr and "error" not in told.stderr
    return "".join(re.findall(r"^interrupted: (.*)\n", told.stderr, re.MULTILINE))


@ASKS
@pytest.mark.parametrize("more", [(), ("--decode",), ("--quantize", "int8", "--seq-len", 64)], ids=["plain", "d", "q"])
def test_an_export_leaves_no_file(
    cli: Cli, disturb: Disturb, tmp_path: Path, code: int, more: tuple[object, ...]
) -> None:
    disturb("flashir.exporting.checks:Check.compare_all")
    disturb("flashir.exporting.checks:DecoderCheck.__call__")
    out = tmp_path / "out"
    assert stopped(cli, code, "export", *TINY, *more, "-o", out) == "nothing was written"
    assert not out.exists()


@ASKS
def test_an_export_that_is_committed_says_so(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, code: int
) -> None:
    import flashir.files.atomic

    put, out = flashir.files.atomic._put, tmp_path / "out"

    def disturbed(written: Path, path: Path) -> None:
        put(written, path)
        if path.name == "model.onnx":
            signal.raise_signal(number)

    monkeypatch.setattr("flashir.files.atomic._put", disturbed)
    assert stopped(cli, code, "export", *TINY, "--decode", "-o", out) == f"{out} has the complete exported model"
    monkeypatch.undo()
    cli.ok("generate", out, "--prompt", "x", "--tokens", 2)


@ASKS
@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ("flashir.autotune.measure:DeviceMeasurer.open", "nothing was measured yet"),
        ("flashir.autotune.contest:Contest._drop", "3 measurements are kept in the store; run again to continue"),
    ],
)
def test_tune_says_how_much_is_kept(cli: Cli, disturb: Disturb, code: int, calls: str, said: str) -> None:
    disturb(calls)
    assert stopped(cli, code, "tune", "flash", "--size", "tiny", "--chunk", 8, "--seq-len", 32) == said


@ASKS
@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ("flashir.train.setup._planned", "no run was created; tokenised text is kept"),
        ("flashir.train.loop._step", "the run is saved up to step-000000; `flashir train --resume {run}` resumes it"),
    ],
)
def test_train_says_what_there_is(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, text: Path, tmp_path: Path, number: int, code: int, calls: str, said: str
) -> None:
    def twice(*_: Any, **__: Any) -> None:
        signal.raise_signal(number)
        signal.raise_signal(number)

    monkeypatch.setattr(calls, twice)
    run = tmp_path / "run"
    line = ("train", *TINY, "--data", text, "--valid", text, "--steps", 2, "--tokens", 32, "--seq-len", 16, "-o", run)
    code = 130 if calls.endswith("_step") and number != signal.SIGHUP else code
    assert stopped(cli, code, *line) == said.format(run=run)


@ASKS
def test_bench_and_calibrate_say_what_is_kept(cli: Cli, disturb: Disturb, tmp_path: Path, code: int) -> None:
    disturb("flashir.bench.run:Bench._admit")
    disturb("flashir.machine.calibrate:_timings")
    line = ("bench", *TINY, "--chunks", 8, "--lengths", 16, "-o", tmp_path / "out")
    assert stopped(cli, code, *line) == "nothing was measured yet"
    assert not list(tmp_path.rglob("out/*"))
    assert stopped(cli, code, "calibrate", "onnx:cpu") == "nothing was written, the old numbers stay"


@pytest.mark.parametrize(("number", "code"), CODES)
@pytest.mark.parametrize("verb", ["plan", "show", "run", "check", "eval", "new"])
def test_a_verb_that_keeps_nothing_is_quiet(
    cli: Cli, disturb: Disturb, artefact: Path, text: Path, code: int, verb: str
) -> None:
    disturb("flashir.cli.source:find")
    words = {"run": (artefact, "--text", text), "eval": (artefact, "--data", text), "check": (artefact,)}
    assert stopped(cli, code, verb, *words.get(verb, TINY)) == ""
