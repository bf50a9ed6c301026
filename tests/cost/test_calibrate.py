"""Calibration: it finds the numbers that a machine has, keeps them, and refuses to guess on a busy one."""

import json

import pytest

from flashir.cost import calibrate as module
from flashir.cost import estimate, target
from flashir.cost.calibrate import calibrate, fit
from flashir.cost.kernels import PROCESSOR
from flashir.cost.profile import profile_path, with_numbers
from flashir.errors import TargetError
from flashir.lowering import Lowering


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHIR_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def graphs():
    return {kernel.name: Lowering.of("onnx:cpu").run(kernel.graph()) for kernel in PROCESSOR}


def test_a_fit_finds_the_machine_that_made_the_timings(graphs):
    machine = with_numbers(
        target("onnx:cpu"),
        {
            "peak.f32": 9e10,
            "peak.f16": 5e10,
            "fill": 25.0,
            "fresh": 5e9,
            "call": 5e-5,
            "bandwidth": 1.2e10,
            "cache_bandwidth": 6e10,
            "vector": 2e10,
            "launch": 4e-6,
            "step": 1e-4,
            "slowdown.scan": 2.5,
            "slowdown.cumsum": 1.9,
        },
        "made up",
    )
    timings = {name: estimate(graph, machine, {}).ms for name, graph in graphs.items()}
    found = fit(target("onnx:cpu"), graphs, timings)
    for kernel in PROCESSOR:
        assert found.number(kernel.tells) == pytest.approx(machine.number(kernel.tells), rel=0.05), kernel.tells
        assert estimate(graphs[kernel.name], found, {}).ms == pytest.approx(timings[kernel.name], rel=0.01)


def test_calibrating_keeps_a_profile_that_later_plans_use(monkeypatch):
    monkeypatch.setattr(module, "ROUNDS", 3)
    monkeypatch.setattr(module, "WIDEST_SPREAD", 1e9)
    found = calibrate("onnx:cpu")
    assert target("onnx:cpu").number("bandwidth") == pytest.approx(found.after.number("bandwidth"))
    assert "calibrated on this machine" in target("onnx:cpu").sources["peak.f32"]
    assert all(timing.ms > 0 for timing in found.timings)


def test_a_busy_machine_is_told_so_and_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(module, "ROUNDS", 3)
    monkeypatch.setattr(module, "WIDEST_SPREAD", -1.0)
    with pytest.raises(TargetError, match=r"quartiles .* apart") as caught:
        calibrate("onnx:cpu")
    assert len(caught.value.problems) == len(PROCESSOR)
    assert not profile_path("onnx:cpu").exists()


def test_a_device_that_is_not_here_cannot_be_calibrated():
    with pytest.raises(TargetError, match="not at hand"):
        calibrate("jax:tpu-v4")


def _profile(**changes):
    from flashir.cost.profile import SCHEMA, profile_key

    return {
        "schema": SCHEMA,
        "date": "2026-01-01",
        "key": profile_key(target("onnx:cpu")),
        "numbers": {"step": 1e-4},
        **changes,
    }


def test_a_profile_of_other_libraries_is_left_alone():
    path = profile_path("onnx:cpu")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(_profile()))
    assert target("onnx:cpu").step == 1e-4
    path.write_text(json.dumps(_profile(key={"device": "another"})))
    assert target("onnx:cpu").step != 1e-4


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[]",
        "[" * 100_000,
        '{"schema": ' + "[" * 100_000,
        "\udcff",
        *(
            json.dumps(_profile(numbers=numbers))
            for numbers in (
                [1],
                None,
                {"step": -1},
                {"step": True},
                {"step": "fast"},
                {"step": 1e400},
                {"pace": 1},
                {"tile": 5},
                {"peak": 1e12},
                {"peak.q9": 1e12},
                {"peak.": 1e12},
                {"slowdown": 2},
                {"slowdown.matmul": 2},
            )
        ),
        json.dumps(_profile(date="\x1b[31mtoday")),
        json.dumps(_profile(key=[])),
        json.dumps(_profile(more=1)),
    ],
    ids=lambda content: content[-60:],
)
def test_a_damaged_profile_is_a_warning_and_the_record_as_shipped(content):
    shipped = target("onnx:cpu")
    path = profile_path("onnx:cpu")
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.warns(UserWarning, match=r"(?s)cannot be read.*run `flashir calibrate onnx:cpu`"):
        assert target("onnx:cpu") == shipped


def test_all_that_a_profile_must_not_have_is_told_at_once():
    path = profile_path("onnx:cpu")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(_profile(numbers={"tile": 5, "pace": 1})))
    with pytest.warns(UserWarning, match="calibration tells no pace, tile"):
        target("onnx:cpu")


def test_numbers_that_no_device_has_are_refused():
    with pytest.raises(ValueError, match="bandwidth"):
        with_numbers(target("onnx:cpu"), {"bandwidth": -5.0}, "made up")


def test_all_numbers_that_no_device_has_are_told_at_once():
    with pytest.raises(ValueError, match=r"step = -1.0, bandwidth = nan"):
        with_numbers(target("onnx:cpu"), {"step": -1.0, "bandwidth": float("nan"), "call": 0.0}, "made up")


def test_a_profile_of_a_library_that_is_gone_is_left_alone(monkeypatch):
    path = profile_path("onnx:cpu")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(_profile()))

    def gone(name):
        raise TargetError(f"{name} is not installed")

    monkeypatch.setattr("flashir.registry.backend", gone)
    assert target("onnx:cpu").step != 1e-4
