"""Calibration: it finds the numbers that a machine has, keeps them, and refuses to guess on a busy one."""

import json
from dataclasses import replace

import pytest

from flashir.backends.lowering import Lowering
from flashir.cost import estimate
from flashir.errors import ArtefactError, TargetError
from flashir.files.sealed_json import sealed
from flashir.machine import calibrate as module
from flashir.machine.calibrate import Timing, calibrate, fit, lowered_kernels
from flashir.machine.microbenchmarks import PROCESSOR, kernels
from flashir.machine.profile import profile_path, with_numbers
from flashir.machine.targets import target


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHIR_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def graphs():
    return {kernel.name: Lowering.of("onnx:cpu").run(kernel.graph()) for kernel in PROCESSOR}


MACHINE = {
    "peak.f32": 9e10,
    "peak.f16": 5e10,
    "peak.bf16": 2e11,
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
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx:cpu", "jax:cpu"])
def test_a_fit_finds_the_machine_that_made_the_timings(name):
    """JAX fuses elementwise ops, and has micro-kernels of its own for them."""
    record = target(name, calibrated=False)
    graphs, timed = lowered_kernels(record), kernels(record)
    machine = with_numbers(record, MACHINE, "made up")
    timings = {name: estimate(graph, machine, {}).ms for name, graph in graphs.items()}
    as_shipped = {name: value for name, value in MACHINE.items() if name not in {kernel.tells for kernel in timed}}
    numbers = fit(with_numbers(record, as_shipped, "made up"), graphs, timings)
    assert set(numbers) == {kernel.tells for kernel in timed}
    found = with_numbers(machine, numbers, "fitted")
    for kernel in timed:
        assert found.number(kernel.tells) == pytest.approx(machine.number(kernel.tells), rel=0.05), kernel.tells
        assert estimate(graphs[kernel.name], found, {}).ms == pytest.approx(timings[kernel.name], rel=0.01)


@pytest.mark.slow
def test_a_number_that_cannot_explain_its_kernel_is_left_out(graphs):
    timings = {name: estimate(graph, target("onnx:cpu"), {}).ms for name, graph in graphs.items()}
    numbers = fit(target("onnx:cpu"), graphs, {**timings, "near_sums": 1e-9})
    assert "cache_bandwidth" not in numbers
    assert numbers["peak.f32"] == pytest.approx(target("onnx:cpu").peak["f32"], rel=0.01)


@pytest.mark.slow
def test_calibrating_keeps_a_profile_that_later_plans_use(monkeypatch):
    monkeypatch.setattr(module, "ROUNDS", 3)  # of two samples, the lower quartile lies below both
    monkeypatch.setattr(module, "SWEEPS", 1)
    monkeypatch.setattr(module, "WIDEST_SPREAD", 1e9)
    found = calibrate("onnx:cpu")
    assert target("onnx:cpu").number("bandwidth") == pytest.approx(found.after.number("bandwidth"))
    assert "calibrated on this machine" in target("onnx:cpu").sources["peak.f32"]
    assert all(timing.ms > 0 for timing in found.timings)
    assert 0 < found.share <= 1


def _stub(monkeypatch, graphs, **ms):
    """Timings as the record of onnx:cpu has them, but for those given."""
    record = target("onnx:cpu", calibrated=False)
    monkeypatch.setattr(module, "_share_of_processor", lambda: 1.0)
    monkeypatch.setattr(module, "SWEEPS", 1)

    def timings(*_):
        return tuple(
            Timing(each.name, each.tells, ms.get(each.name, estimate(graphs[each.name], record, {}).ms), 0.01)
            for each in PROCESSOR
        )

    monkeypatch.setattr(module, "_timings", timings)


def test_only_numbers_that_were_told_are_kept(monkeypatch, graphs):
    _stub(monkeypatch, graphs, large=1e-9, near_sums=1e-9)
    shipped = target("onnx:cpu")
    found = calibrate("onnx:cpu")
    assert found.as_dict()["not_told"] == ["cache_bandwidth", "fresh"]
    assert found.as_dict()["numbers"]["fresh"]["after"] is None
    kept = json.loads(profile_path("onnx:cpu").read_text())["numbers"]
    assert kept.keys() == {kernel.tells for kernel in PROCESSOR} - {"fresh", "cache_bandwidth"}
    record = target("onnx:cpu")
    for name in ("fresh", "cache_bandwidth"):
        assert record.number(name) == shipped.number(name)
        assert record.sources.get(name) == shipped.sources.get(name)


@pytest.mark.slow
def test_a_fit_starts_at_the_record_as_shipped(monkeypatch, graphs):
    _stub(monkeypatch, graphs, nothing=9.0)
    assert calibrate("onnx:cpu").after.call > 8e-3
    _stub(monkeypatch, graphs, nothing=1e-9)
    assert calibrate("onnx:cpu").after.call == target("onnx:cpu", calibrated=False).call


def test_a_machine_that_cannot_be_explained_is_refused(monkeypatch, graphs):
    _stub(monkeypatch, graphs, **{kernel.name: 1e-9 for kernel in PROCESSOR})
    with pytest.raises(TargetError, match="cannot explain") as caught:
        calibrate("onnx:cpu")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["product", "sums"]
    assert all(kernel.name in caught.value.hint for kernel in PROCESSOR)
    assert not profile_path("onnx:cpu").exists()


@pytest.mark.parametrize("where", ["profiles", "onnx-cpu.json"])
def test_nothing_is_measured_where_the_profile_cannot_be_kept(monkeypatch, tmp_path, where):
    """A file is in the place of the folder, or a folder in that of the file."""
    if where == "profiles":
        (tmp_path / "profiles").touch()
    else:
        profile_path("onnx:cpu").mkdir(parents=True)
    monkeypatch.setattr(module, "_timings", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(ArtefactError, match=f"{where}: cannot write"):
        calibrate("onnx:cpu")


@pytest.mark.slow
def test_a_busy_machine_is_told_so_with_every_timing_and_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(module, "ROUNDS", 3)
    monkeypatch.setattr(module, "AGAIN", 0)
    monkeypatch.setattr(module, "WIDEST_SPREAD", -1.0)
    with pytest.raises(TargetError, match=r"the fastest quarter .* apart") as caught:
        calibrate("onnx:cpu")
    timed = [kernel.name for kernel in PROCESSOR if kernel.name != "bf16"]  # which ONNX Runtime does not compute in
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["product", "sums"]
    assert all(f"  {name} " in caught.value.hint for name in timed)
    assert "of the processor" in caught.value.hint
    assert not profile_path("onnx:cpu").exists()


def test_a_number_of_a_noisy_kernel_stays_as_shipped(monkeypatch, graphs):
    _stub(monkeypatch, graphs)
    assert "cache_bandwidth" not in calibrate("onnx:cpu").as_dict()["not_told"]
    timings = module._timings

    def noisy(*_):
        return tuple(replace(t, spread=0.5 if t.kernel == "near_sums" else t.spread) for t in timings())

    monkeypatch.setattr(module, "_timings", noisy)
    assert "cache_bandwidth" in calibrate("onnx:cpu").as_dict()["not_told"]


def test_what_slows_down_most_rounds_does_not_count():
    assert module.timing(PROCESSOR[0], [1.0] * 8 + [9.0] * 17).spread == 0
    assert module.timing(PROCESSOR[0], [1.0] * 5 + [9.0] * 20).spread > module.WIDEST_SPREAD


def test_a_noisy_kernel_is_timed_again_a_few_times(monkeypatch, graphs):
    taken = dict.fromkeys(graphs, 0)
    now = 0.0

    def run(graph, record):
        name = next(each for each, made in graphs.items() if made is graph)

        def step():
            nonlocal now
            taken[name] += 1
            calm = name != "sums" and (name != "loop" or taken[name] > 1 + module.ROUNDS)
            now += 0.001 * (1 if calm else 2 ** (taken[name] % 7))

        return step

    monkeypatch.setattr(module, "_run", run)
    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    found = {t.kernel: t for t in module._timings(graphs, target("onnx:cpu"), lambda *_: None)}
    assert taken.pop("sums") == 1 + (1 + module.AGAIN) * module.ROUNDS
    assert taken.pop("loop") == 1 + 2 * module.ROUNDS
    assert set(taken.values()) == {1 + module.ROUNDS}
    assert found["sums"].spread > module.WIDEST_SPREAD > found["loop"].spread
    assert list(found) == [kernel.name for kernel in PROCESSOR]


def test_a_device_that_is_not_here_cannot_be_calibrated():
    with pytest.raises(TargetError, match="not available"):
        calibrate("jax:tpu-v4")


def _profile(**changes):
    """A profile as JSON, with a digest of its content."""
    from flashir.machine.profile import SCHEMA, profile_key

    key = profile_key(target("onnx:cpu"))
    said = {"schema": SCHEMA, "date": "2026-01-01", "key": key, "numbers": {"step": 1e-4}, **changes}
    return sealed(said)


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
    with pytest.warns(UserWarning, match="calibration fits no pace, tile"):
        target("onnx:cpu")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"numbers": {"step": 2e-4}}, "it is damaged, or was changed"),
        ({"date": "2026-01-02"}, "it is damaged, or was changed"),
        ({"key": {"device": "another"}}, "it is damaged, or was changed"),
        ({"sha256": "0" * 64}, "it is damaged, or was changed"),
        ({"sha256": ""}, "it is damaged, or was changed"),
        ({"schema": 4}, "another version of flashir wrote"),
    ],
)
def test_a_profile_that_was_changed_is_a_warning_that_says_to_calibrate_again(change, told):
    shipped = target("onnx:cpu")
    path = profile_path("onnx:cpu")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(_profile() | change))
    with pytest.warns(UserWarning, match=f"{told}.*run `flashir calibrate onnx:cpu`"):
        assert target("onnx:cpu") == shipped


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

    monkeypatch.setattr("flashir.backends.registry.backend", gone)
    assert target("onnx:cpu").step != 1e-4
