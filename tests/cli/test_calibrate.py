"""flashir calibrate: what was fitted and what was not, for people and for machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flashir.machine import calibrate as module
from flashir.machine.calibrate import Timing
from flashir.machine.microbenchmarks import PROCESSOR
from tests.cli.conftest import Cli

MS = {"product": 50.0, "sums": 30.0}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine of which products and sums tell something, and nothing else does."""

    def timings(*_: Any) -> tuple[Timing, ...]:
        return tuple(Timing(kernel.name, kernel.tells, MS.get(kernel.name, 1e-9), 0.01) for kernel in PROCESSOR)

    monkeypatch.setattr(module, "_timings", timings)
    monkeypatch.setattr(module, "_share_of_processor", lambda: 1.0)
    monkeypatch.setattr(module, "SWEEPS", 1)
    return monkeypatch


@pytest.mark.usefixtures("measured")
def test_what_was_not_told_is_said_and_stays_as_shipped(cli: Cli) -> None:
    shipped = cli.json("targets", "onnx:cpu")["numbers"]
    told = {line.split()[0]: line for line in cli.ok("calibrate", "onnx:cpu").splitlines() if line}
    assert "not measured" in told["vector"] and "not measured" in told["fresh"]
    assert "not measured" not in told["peak.f32"] and "not measured" not in told["bandwidth"]
    after = cli.json("targets", "onnx:cpu")["numbers"]
    assert {name for name in after if after[name] != shipped.get(name)} == {"peak.f32", "bandwidth"}
    assert all("calibrated on this machine" in after[name]["source"] for name in ("peak.f32", "bandwidth"))
    found = cli.json("calibrate", "onnx:cpu")
    assert found["numbers"]["vector"]["after"] is None and "vector" in found["not_told"]
    assert found["numbers"]["bandwidth"]["after"] > 0 and "bandwidth" not in found["not_told"]


def test_other_work_beside_it_is_seen(cli: Cli, measured: pytest.MonkeyPatch) -> None:
    assert cli("calibrate", "onnx:cpu").stderr == ""
    measured.setattr(module, "_share_of_processor", lambda: 0.67)
    assert "got 67% of the processor" in cli("calibrate", "onnx:cpu").stderr
    assert cli.json("calibrate", "onnx:cpu")["share"] == 0.67


def test_a_refusal_has_every_timing(cli: Cli, measured: pytest.MonkeyPatch) -> None:
    measured.setattr(module, "WIDEST_SPREAD", 0.001)
    message = cli.fails("calibrate", "onnx:cpu", "--json")
    assert "too busy" in message and all(f"  {kernel.name} " in message for kernel in PROCESSOR)


def test_a_profile_that_cannot_be_kept_is_an_error_at_once(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHIR_CACHE", "/proc/nope")
    monkeypatch.setattr(module, "_timings", lambda *_: pytest.fail("it was measured"))
    assert "cannot write" in cli.fails("calibrate", "onnx:cpu")


def test_a_refusal_leaves_no_folder(cli: Cli, measured: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured.setattr(module, "WIDEST_SPREAD", 0.001)
    measured.setenv("FLASHIR_CACHE", str(tmp_path / "a" / "cache"))
    assert "too busy" in cli.fails("calibrate", "onnx:cpu")
    assert not list(tmp_path.iterdir())
