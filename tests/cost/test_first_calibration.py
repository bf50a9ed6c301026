"""The first plan for a processor calibrates where the user asks for that, once, and in little time."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

import flashir
from flashir.errors import ArtefactError, SettingError, TargetError
from flashir.machine import calibrate as module
from flashir.machine import first_calibration
from flashir.machine.profile import profile_path, write_profile
from flashir.machine.targets import target

MODEL = flashir.model("flash", size="tiny")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHIR_CACHE", str(tmp_path))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets that were calibrated. Each gets a bandwidth."""
    monkeypatch.setenv(first_calibration.SETTING, "first")
    names: list[str] = []

    def calibrate(name: str, *, seconds: float) -> None:
        names.append(name)
        write_profile(target(name, calibrated=False), {"bandwidth": 1.25e10})

    monkeypatch.setattr(module, "calibrate", calibrate)
    return names


def plan(name: str = "onnx:cpu") -> flashir.Plan:
    return flashir.plan(MODEL, name, seq_len=64)


def test_it_is_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(first_calibration.SETTING, raising=False)
    monkeypatch.setattr(module, "calibrate", lambda *_, **__: pytest.fail("it was measured"))
    plan()
    monkeypatch.setenv(first_calibration.SETTING, "off")
    plan()


def test_the_first_plan_calibrates_and_no_other(asked: list[str]) -> None:
    plan()
    assert target("onnx:cpu").bandwidth == 1.25e10
    plan()
    assert asked == ["onnx:cpu"]


@pytest.mark.parametrize("name", ["jax:tpu-v4", "torch:cuda"])
def test_other_devices_are_not_measured(asked: list[str], name: str) -> None:
    plan(name)
    assert not asked


def test_a_backend_that_is_not_installed_is_not_measured(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(record: Any) -> bool:
        raise TargetError("PyTorch is not installed")

    monkeypatch.setattr(first_calibration, "has_profile", missing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan()
    assert not asked


def test_a_profile_of_other_libraries_is_measured_anew(asked: list[str]) -> None:
    plan()
    path = profile_path("onnx:cpu")
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "key": {"device": "another"}}))
    plan()
    assert len(asked) == 2


def test_a_damaged_profile_is_not_measured_over(asked: list[str]) -> None:
    path = profile_path("onnx:cpu")
    path.parent.mkdir(parents=True)
    path.write_text("not json")
    with pytest.warns(UserWarning, match="cannot be read"):
        plan()
    assert not asked


def test_a_busy_machine_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(first_calibration.SETTING, "first")

    def busy(*_: Any, **__: Any) -> None:
        raise TargetError("sums: the fastest quarter 50% apart", where="the machine is too busy to calibrate")

    monkeypatch.setattr(module, "calibrate", busy)
    with pytest.warns(
        UserWarning, match=r"^onnx:cpu is planned by its shipped record: the machine is too busy"
    ) as told:
        plan()
    assert "\n" not in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan()


def test_a_cache_that_cannot_be_written_is_said_and_the_plan_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(first_calibration.SETTING, "first")

    def unwritable(*_: Any, **__: Any) -> None:
        raise ArtefactError("cannot write", where="/proc/nope")

    monkeypatch.setattr(module, "calibrate", unwritable)
    with pytest.warns(UserWarning, match="planned by its shipped record: /proc/nope"):
        assert plan().predicted_ms > 0


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(first_calibration.SETTING, "always")
    with pytest.raises(SettingError, match="FLASHIR_CALIBRATE must be first or off, got 'always'"):
        plan()


@pytest.mark.slow
def test_no_round_starts_after_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    module.calibrate("onnx:cpu", lambda what, done, of: rounds.append(done), seconds=0)
    assert rounds == list(range(1, module.FEWEST + 1))
