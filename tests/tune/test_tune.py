"""tune on this machine, with models that take milliseconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.autotune import measure
from flashir.autotune import tune as search
from flashir.autotune.measure import DeviceMeasurer
from flashir.backends.registry import backend, backend_names
from flashir.errors import ArtefactError, InputError, SettingError, TargetError
from flashir.ir.settings import Settings
from flashir.planning.measurements.key import store_path
from flashir.planning.measurements.store import Store, new_tuning
from flashir.planning.workload import Workload
from tests.backends.support import at_hand
from tests.tune.support import Log, NoisyMeasurer, candidates, chosen

TINY = flashir.model("flash", size="tiny", d_model=16, key_dim=8, vocab=32)


def tune(model: flashir.Graph = TINY, **changes: Any) -> flashir.Plan:
    return flashir.tune(model, **{"seq_len": 100, **changes})


@pytest.mark.slow
def test_tune_measures_some_and_plan_finds_them() -> None:
    log = Log()
    made = tune(progress=log)
    measured = [each for each in made.candidates if each.measured_ms is not None]
    assert 0 < len(measured) <= max(3, len(made.candidates) // 3 + 1)
    assert all(each.measured_ms > 0 for each in measured if each.measured_ms)
    assert (made.chunk, made.cumsum) in {(each.chunk, each.cumsum) for each in measured}
    assert "measured on this machine" in made.why
    assert not log.of("skipped")
    later = flashir.plan(TINY, seq_len=100)
    assert [each.measured_ms for each in later.candidates] == pytest.approx(
        [each.measured_ms for each in made.candidates]
    )
    assert (later.chunk, later.cumsum) == (made.chunk, made.cumsum)
    assert "measured_ms" in str(later.as_dict()["candidates"])


@pytest.mark.parametrize("name", [name for name in backend_names() if at_hand(name)])
def test_tune_keeps_the_plan_where_nothing_is_told_apart(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every target, with the times of a clock of our own: equal for all but noise, then one is clearly faster."""
    target = f"{name}:cpu"
    plan = flashir.plan(TINY, target, seq_len=100, policy="fastest")
    times = {each.settings: 10.0 for each in plan.candidates}
    monkeypatch.setattr(search, "DeviceMeasurer", lambda *_: NoisyMeasurer(times, seed=1))
    made = tune(target=target, policy="fastest")
    assert made.settings == plan.settings
    if made.chosen.measured_ms != min(each.measured_ms for each in made.candidates if each.measured_ms is not None):
        assert "is kept as predicted" in made.why
    other = next(each.settings for each in made.candidates if each.measured_ms is not None and each != made.chosen)
    times[other] = 5.0
    monkeypatch.setenv("FLASHIR_CACHE", str(tmp_path / "another"))
    assert tune(target=target, policy="fastest").settings == other
    assert flashir.plan(TINY, target, seq_len=100, policy="fastest").settings == other


@pytest.mark.slow
def test_what_is_certain_is_not_measured_again_but_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    class Counted(DeviceMeasurer):
        def open(self, candidate: Any) -> None:
            opened.append(candidate)
            super().open(candidate)

    monkeypatch.setattr(search, "DeviceMeasurer", Counted)
    tune(chunk=64)
    with Store(write=True) as store:
        store.add(*(replace(each, spread_ms=1e-6, runs=12, tuning=new_tuning()) for each in store.all()))
    opened.clear()
    made = tune(chunk=64)
    assert not opened
    assert "earlier" in made.why
    assert sum(each.runs == 12 for each in made.candidates) >= 2
    assert made.candidates == flashir.plan(TINY, seq_len=100, chunk=64).candidates
    assert "earlier" not in tune(chunk=64, again=True).why
    assert opened


def test_where_one_of_many_was_measured_there_was_something_to_choose() -> None:
    why = tune(budget_s=1e-9).why
    assert why.startswith("No other candidate was measured. 1 of ")


def test_nothing_to_choose_is_measured_once() -> None:
    made = tune(flashir.model("flash-quad", size="tiny", vocab=32))
    assert (made.chunk, made.cumsum) == (None, None)
    assert [each.measured_ms is not None for each in made.candidates] == [True]
    assert "Measured on this machine" in made.why


@pytest.mark.slow
def test_tiles_are_measured_and_remembered_apart() -> None:
    model = flashir.model("performer", size="tiny", d_model=16, heads=2, vocab=32)
    made = tune(model, policy="fastest")
    measured = {each.settings: each.measured_ms for each in made.candidates if each.measured_ms is not None}
    assert made.settings in measured
    assert len(made.candidates) == 15 and 3 <= len(measured) <= 6
    later = flashir.plan(model, seq_len=100, policy="fastest")
    assert later.settings == made.settings
    assert {each.settings: each.measured_ms for each in later.candidates if each.measured_ms is not None} == measured
    with Store() as store:
        assert {Settings(json.loads(trial.choices)): trial.measured_ms for trial in store.all()} == measured


def test_tiles_compute_one_function_or_do_not_win() -> None:
    model = flashir.model("performer", size="tiny", d_model=16, heads=2, vocab=32)
    measurer = DeviceMeasurer(model, "onnx:cpu", Wrong("scan", ""), "cpu", Workload(1, 200))
    right, wrong = candidates({Settings(tile=128, cumsum="native"): 1.0, Settings(tile=16, cumsum="scan"): 1.0})
    measurer.open(right)
    with pytest.raises(ArtefactError, match="differs from the same function computed with other settings"):
        measurer.open(wrong)


@pytest.mark.parametrize("whole_ms", [0.0, 1e9])
def test_a_deep_model_with_segments_whole_and_in_parts(whole_ms: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "WHOLE_MS", whole_ms)
    model = flashir.model("flash", size="tiny", d_model=16, key_dim=8, vocab=32, depth=6, segments=True)
    made = tune(model, chunk=64)
    assert (made.chunk, made.cumsum) == (64, "matmul")
    assert made.candidates[0].measured_ms is not None


@pytest.mark.slow
def test_training_steps_are_measured_and_kept_apart_from_runs(cache: Path) -> None:
    model = flashir.model("flash", size="tiny", d_model=16, key_dim=8, vocab=32, cumsum="matmul")
    made = tune(model, target="torch:cpu", training=True, seq_len=100)
    measured = {each.chunk: each.measured_ms for each in made.candidates if each.measured_ms is not None}
    assert made.training and made.chunk in measured
    with Store() as store:
        assert {each.training for each in store.all()} == {True}
    again = flashir.plan(model, "torch:cpu", 1, 100, training=True)
    assert {each.chunk for each in again.candidates if each.measured_ms is not None} == set(measured)
    forward = flashir.plan(model, "torch:cpu", 1, 100)
    assert all(each.measured_ms is None for each in forward.candidates)


def test_what_memory_does_not_hold_is_said_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "free_memory", lambda: 2**20)
    with pytest.raises(TargetError, match=r"needs 0\.\d\d GiB, and 0\.00 GiB are free"):
        tune(flashir.model("flash", size="small", cumsum="matmul", chunk=64), target="torch:cpu", training=True)


def test_a_candidate_that_was_closed_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the next opened before, two would take the memory of one."""
    made: list[weakref.ref[Any]] = []

    class Seen:
        def compile(self, graph: flashir.Graph, params: Any, device: str) -> Any:
            true = backend("onnx").compile(graph, params, device)

            def run(arrays: Sequence[Any]) -> Any:
                return true(arrays)

            run.itself = run  # type: ignore[attr-defined]
            made.append(weakref.ref(run))
            return run

    measurer = DeviceMeasurer(TINY, "onnx:cpu", Seen(), "cpu", Workload(1, 100))
    (only,) = candidates({chosen(64, "scan"): 1.0})
    measurer.open(only)
    assert measurer.sample(only) > 0
    measurer.close(only)
    assert [each() for each in made] == [None]


def test_a_strategy_with_a_gradient_of_its_own_cannot_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loss is that of the others."""
    off = 1.0

    class Off:
        def trainer(self, *given: Any, **options: Any) -> Any:
            made = backend("torch").trainer(*given, **options)  # type: ignore[attr-defined]
            state, name, by = made.state, "mean.layers.0.proj_out.weight", off
            made.state = lambda: {**(found := state()), name: found[name] * by}
            return made

    monkeypatch.setattr("flashir.execution.trainer.trainable", lambda target: Off())
    measurer = DeviceMeasurer(TINY, "torch:cpu", backend("torch"), "cpu", Workload(1, 200, True))
    scan, matmul = candidates({chosen(64, "scan"): 1.0, chosen(64, "matmul"): 1.0})
    measurer.open(scan)
    measurer.open(matmul)
    off = 1.01
    with pytest.raises(ArtefactError, match=r"its gradient of layers\.0\.proj_out\.weight differs from .* by 1\.0e-02"):
        measurer.open(matmul)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"training": True}, TargetError, "onnx:cpu cannot train"),
        ({"target": "onnx:cpux2"}, TargetError, "cpux2"),
        ({"target": "onnx:nowhere"}, TargetError, "unknown target"),
        ({"policy": "best"}, SettingError, "policy must be"),
        ({"budget_s": 0}, SettingError, "budget_s must be more than 0"),
        ({"budget_s": float("nan")}, SettingError, "budget_s must be more than 0"),
        ({"chunk": -1}, SettingError, "chunk must be"),
        ({"seq_len": 0}, SettingError, "seq_len must be"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_any_work(
    changes: dict[str, Any], error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "DeviceMeasurer", None)
    with pytest.raises(error, match=said):
        tune(**changes)
    assert not store_path().exists()


def test_rows_longer_than_the_positions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "DeviceMeasurer", None)
    with pytest.raises(InputError, match="max_len = 16"):
        flashir.tune(flashir.model("transformer", size="tiny", max_len=16), seq_len=17)


def test_a_device_that_is_not_at_hand_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(backend("onnx")), "devices", lambda self: ("cuda",))
    with pytest.raises(TargetError, match="the available devices for onnx are cuda"):
        tune()


def nowhere(cache: Path) -> None:
    cache.write_text("a file where the folder should be")


def garbage(cache: Path) -> None:
    cache.mkdir()
    store_path().write_bytes(b"garbage" * 1000)


@pytest.mark.parametrize("damage", [nowhere, garbage])
def test_a_store_that_cannot_be_used_costs_one_warning(cache: Path, damage: Any) -> None:
    damage(cache)
    with pytest.warns(UserWarning, match="measurements are not kept") as caught:
        made = tune(chunk=64, cumsum="native")
    assert len(caught) == 1
    assert made.candidates[0].measured_ms is not None


def test_a_store_that_breaks_on_the_way_costs_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Store, *trials: Any) -> int:
        raise ArtefactError("database or disk is full")

    monkeypatch.setattr(Store, "add", full)
    with pytest.warns(UserWarning, match="disk is full") as caught:
        tune(chunk=64, cumsum="native")
    assert len(caught) == 1


class Wrong:
    """A backend that computes something else for one strategy, and crashes for another."""

    def __init__(self, wrong: str, crash: str) -> None:
        self.wrong, self.crash, self.true = wrong, crash, backend("onnx")

    def compile(self, graph: flashir.Graph, params: Any, device: str) -> Any:
        run = self.true.compile(graph, params, device)
        scans = any(node.op == "scan" for node in graph.walk())
        if scans and self.crash == "scan":
            raise MemoryError("out of memory")
        return (lambda arrays: run(arrays) * 1.01) if scans and self.wrong == "scan" else run

    def __getattr__(self, name: str) -> Any:
        return getattr(self.true, name)


@pytest.mark.parametrize(("wrong", "crash", "said"), [("scan", "", "differs from"), ("", "scan", "out of memory")])
@pytest.mark.parametrize("first", ["scan", "native"])
def test_a_candidate_that_computes_something_else_cannot_win(wrong: str, crash: str, said: str, first: str) -> None:
    measurer = DeviceMeasurer(TINY, "onnx:cpu", Wrong(wrong, crash), "cpu", Workload(1, 200))
    found = candidates({chosen(64, "scan"): 1.0, chosen(64, "native"): 1.0})
    for candidate in found if first == "scan" else found[::-1]:
        if candidate.cumsum == "scan":
            with pytest.raises((flashir.FlashirError, MemoryError), match=said):
                measurer.open(candidate)
        else:
            measurer.open(candidate)
            assert measurer.sample(candidate) > 0


def test_where_all_candidates_fail_the_error_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, graph: Any, params: Any, device: str) -> Any:
        def run(arrays: Sequence[Any]) -> Any:
            return np.full((1, 1), np.nan)

        return run

    monkeypatch.setattr(type(backend("onnx")), "compile", broken)
    with pytest.raises(TargetError, match="no candidate could be measured") as raised:
        tune(chunk=64)
    assert raised.value.problems == ("differs from the interpreter on 65 tokens by inf, more than 1e-04",)


@pytest.mark.slow
def test_two_tuners_at_once_lose_no_trial(cache: Path) -> None:
    code = (
        "import flashir; flashir.tune(flashir.model('flash', size='tiny', d_model=16, key_dim=8, vocab=32), "
        "seq_len=100, chunk=64, again=True)"  # without `again`, the later tuner may trust what the earlier one measured
    )
    tuners = [subprocess.Popen([sys.executable, "-c", code], env=os.environ.copy()) for _ in range(2)]
    assert [each.wait(timeout=120) for each in tuners] == [0, 0]
    with Store() as store:
        trials = store.all()
    assert len({each.tuning for each in trials}) == 2
    assert len(trials) == 6


def test_the_functions_stay_functions_beside_modules_of_the_same_name() -> None:
    from flashir.reference.compare import sample_inputs

    assert callable(flashir.tune)
    assert callable(flashir.export)
    assert callable(sample_inputs)
