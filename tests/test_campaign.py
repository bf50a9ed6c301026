"""The campaign notices what is wrong, goes on after a kill, and runs a case again; a few cases of each kind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.campaign import files, flips, values
from tests.campaign.__main__ import main
from tests.campaign.case import Case, run
from tests.campaign.kinds import KINDS, SHOWN
from tests.campaign.texts import mutated, seed_text
from tests.campaign.verdict import ROOT, Reply

FAULTS = {
    "another number": 2,
    "ZeroDivisionError leaves flashir/files/atomic.py, atomic_files": 3,
    "dies of SIGSEGV": 4,
    "holds too much memory": 5,
    "hangs": 6,
}
"""What `tests.campaign.planted` has, by the number of the case."""
QUICK = {"texts": 10, "api": 20, "values": 1, "causality": 1, "decode": 1, "flips": 6, "files": 10}
"""Cases of each kind that take less than a second."""


def campaign(*words: object, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "tests.campaign", *map(str, words)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done


def counts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "counts.json").read_text())["kinds"]
    return found


def found(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "findings.jsonl").read_text().splitlines()]


def a_case(kind: str, number: int, tmp_path: Path, seed: int = 0) -> Reply:
    return run(KINDS[kind], seed, number, tmp_path, tmp_path / "shared")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    out = tmp_path_factory.mktemp("campaign") / "out"
    return campaign("--kinds", "planted", "--cases", 8, "--workers", 1, "--out", out, code=1), out


@pytest.mark.slow
def test_every_planted_fault_is_found(planted: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, out = planted
    findings = {line["case"]: line for line in found(out)}
    assert set(findings) == {f"planted:0:{number}" for number in FAULTS.values()}
    for sign, number in FAULTS.items():
        line = findings[f"planted:0:{number}"]
        assert line["sign"].startswith(sign)
        assert line["replay"] == f"python -m tests.campaign --replay planted:0:{number}"
        assert line["replay"] in done.stdout and sign in done.stderr
    assert "ZeroDivisionError" in findings["planted:0:3"]["detail"]


@pytest.mark.slow
def test_what_is_right_is_counted_and_no_finding(planted: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    count = counts(planted[1])["planted"]
    assert count["outcomes"] == {"ok": 2, "refused: setting": 1, "found": 5}
    assert count["refusals"] == {"refused as it should be": 1}
    assert count["next"] == 8


def test_it_goes_on_where_it_was_with_the_seed_of_that_day(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = campaign("--seed", "daily", "--kinds", "planted", "--cases", 2, "--workers", 1, "--out", out)
    seed = json.loads((out / "counts.json").read_text())["seed"]
    assert f"seed {seed}," in done.stderr and len(str(seed)) == 8
    told = campaign("--resume", out, "--cases", 2, "--json", code=1).stdout
    assert json.loads(told)["kinds"]["planted"]["cases"] == counts(out)["planted"]["next"] == 4
    assert [line["case"] for line in found(out)] == [f"planted:{seed}:2", f"planted:{seed}:3"]


@pytest.mark.slow
def test_it_goes_on_after_a_kill(tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = [
        sys.executable,
        "-m",
        "tests.campaign",
        "--kinds",
        "texts",
        "--minutes",
        "5",
        "--seed",
        "3",
        "--out",
        str(out),
    ]
    process = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not (out / "counts.json").exists() or counts(out)["texts"]["next"] < 5:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = counts(out)["texts"]["next"]
    campaign("--resume", out, "--cases", 4)
    after = counts(out)["texts"]
    assert after["next"] == before + 4 == sum(after["outcomes"].values())


@pytest.mark.slow
def test_a_case_runs_again_to_the_same_end() -> None:
    told = json.loads(campaign("--replay", "planted:5:2", "--json", code=1).stdout)
    assert told["sign"] == "another number" and told["notes"] == {"number": "2"}
    shown = campaign("--replay", "texts:5:2")
    assert "--- text" in shown.stderr and ("refused" in shown.stdout or "read" in shown.stdout)


def test_a_case_follows_from_its_name_alone(tmp_path: Path) -> None:
    cases = [Case(KINDS["texts"], 4, 9, tmp_path, tmp_path) for _ in range(2)]
    one, other = (mutated(seed_text(case), case.random) for case in cases)
    assert one == other


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kinds", "nosuch"], "unknown kinds 'nosuch'"),
        (["--minutes", "0"], "must be more than 0"),
        (["--seed", "x"], "must be a whole number"),
        (["--replay", "texts:1"], "KIND:SEED:NUMBER"),
        (["--resume", "/nonexistent"], "is no campaign"),
        (["--out", str(ROOT / "tests")], "is not empty"),
        (["--resume", "x", "--seed", "1"], "leave out --seed and --out"),
    ],
)
def test_misuse_is_one_message(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_help_has_examples_and_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "examples:" in said and all(name in said for name in SHOWN)


def test_a_backend_that_lies_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flashir_onnx import OnnxBackend

    whole = OnnxBackend.compile

    def wrong(self: Any, graph: Any, params: Any, device: str) -> Any:
        call = whole(self, graph, params, device)
        return lambda arrays: np.asarray(call(arrays) * 1.001, np.float32)

    monkeypatch.setattr(OnnxBackend, "compile", wrong)
    monkeypatch.setattr(values, "TARGETS", ("onnx:cpu",))
    replies = [a_case("values", number, tmp_path) for number in range(6)]
    assert any(reply.sign.startswith("onnx:cpu: wrong numbers") for reply in replies)


def test_an_exception_that_leaks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaking(*_: object, **__: object) -> None:
        raise KeyError("oh")

    monkeypatch.setattr("tests.campaign.texts.loads", leaking)
    reply = a_case("texts", 0, tmp_path)
    assert reply.is_finding and "KeyError" in reply.sign and "text" in reply.notes


def test_damage_that_passes_unseen_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flips, "FAST", ("params",))
    monkeypatch.setattr(flips, "SLOW", ("params",))
    monkeypatch.setattr("flashir.models.weight_file._digests", lambda *_: {})
    replies = [a_case("flips", number, tmp_path) for number in range(12)]
    assert "params, p.safetensors: damage passes unseen" in {reply.sign for reply in replies}


@pytest.mark.parametrize("kind", QUICK)
def test_a_few_cases_find_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLASHIR_CACHE", str(tmp_path / "cache"))
    for module, speed in product((flips, files), ("FAST", "SLOW")):
        monkeypatch.setattr(module, speed, ("params", "checkpoint", "profile", "bench", "shards"))
    replies = [a_case(kind, number, tmp_path) for number in range(QUICK[kind])]
    assert not [reply for reply in replies if reply.is_finding]


def test_a_file_that_means_harm_and_is_read_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here one that was changed in nothing."""
    pytest.importorskip("torch")
    from tests.campaign import archives, formats

    monkeypatch.setattr(archives, "_MAKERS", dict.fromkeys(archives._MAKERS, archives._onnx))
    monkeypatch.setattr(formats, "FORMATS", dict.fromkeys(archives._MAKERS, formats.FORMATS["onnx"]))
    monkeypatch.setattr(archives.onnx_models, "CHANGES", {"none": lambda model: None})
    reply = a_case("archives", 0, tmp_path)
    assert reply.sign.endswith("what means harm is read") and reply.what == "none"
    monkeypatch.undo()
    monkeypatch.setattr(archives, "_MAKERS", dict.fromkeys(archives._MAKERS, archives._onnx))
    monkeypatch.setattr(formats, "FORMATS", dict.fromkeys(archives._MAKERS, formats.FORMATS["onnx"]))
    assert a_case("archives", 0, tmp_path).outcome.endswith("refused")
