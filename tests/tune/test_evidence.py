"""What a plan makes of measurements: the measured ones count, and no other wins on an optimistic prediction."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

import flashir
from flashir.ir.settings import Settings
from flashir.machine.targets import target
from flashir.planning.measurements.correct import DOUBT, corrected
from flashir.planning.measurements.key import store_path, where
from flashir.planning.measurements.store import Store, choices_text, digest
from flashir.planning.plan import Plan
from flashir.transforms.settle_choices import settle
from tests.tune.support import candidates, chosen, trial

MODEL = flashir.model("flash", size="tiny")


def keep(choice: Settings, ms: float, seq_len: int = 512, predicted_ms: float = 1.0, **changes: float) -> None:
    """Put a measurement of this machine into the store."""
    with Store(write=True) as store:
        store.add(
            trial(
                **where(target("onnx:cpu")),
                model=digest(settle(MODEL, choice)),
                choices=choices_text(choice),
                measured_ms=ms,
                predicted_ms=predicted_ms,
                seq_len=seq_len,
                **changes,
            )
        )


def plan(**changes: object) -> Plan:
    return flashir.plan(MODEL, seq_len=512, **changes)  # type: ignore[arg-type]


def measured(made: Plan) -> dict[Settings, float]:
    return {chosen(c.chunk, c.cumsum): c.measured_ms for c in made.candidates if c.measured_ms is not None}


def test_without_a_store_the_plan_is_the_models_alone() -> None:
    made = plan()
    assert made == plan(measured=False)
    assert not measured(made)
    assert not store_path().exists()


def test_a_plan_without_a_store_loads_neither_sqlite_nor_a_framework() -> None:
    code = """
import sys, flashir, flashir_torch
from flashir.backends.lowering import Lowering
model = flashir.model("flash", size="tiny", chunk=64, cumsum="scan")
for target in ("onnx:cpu", "torch:h100"):
    flashir.plan(model, target, seq_len=128)
Lowering.of("torch:cpu").run(model)
print(sorted({"sqlite3", "onnxruntime", "torch"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_measurements_decide() -> None:
    slow = dict.fromkeys(
        (
            chosen(64, "native"),
            chosen(64, "matmul"),
            chosen(128, "native"),
        ),
        10.0,
    )
    for choice, ms in {**slow, chosen(256, "scan"): 1.0}.items():
        keep(choice, ms)
    made = plan(policy="fastest")
    assert (made.chunk, made.cumsum) == (256, "scan")
    assert measured(made) == {**slow, chosen(256, "scan"): 1.0}
    assert measured(plan(chunk=256)) == {chosen(256, "scan"): 1.0}, "the settled model is the same model"
    assert not measured(plan(measured=False))
    assert not measured(plan(batch=2))


def test_an_optimistic_prediction_does_not_win() -> None:
    best = plan(measured=False, policy="fastest")
    keep(chosen(best.chunk, best.cumsum), 100 * best.predicted_ms)  # the model is far too optimistic throughout
    made = plan(policy="fastest")
    assert (made.chunk, made.cumsum) == (best.chunk, best.cumsum)
    assert all(each.ms > 50 * each.predicted_ms for each in made.candidates)


def test_what_was_measured_badly_does_not_win_either() -> None:
    predicted = {chosen(c.chunk, c.cumsum): c.predicted_ms for c in plan(measured=False).candidates}
    for cumsum in ("scan", "matmul", "native"):
        keep(chosen(512, cumsum), predicted[chosen(512, cumsum)])  # as `tune --chunk 512` does
    assert plan(policy="fastest").chunk != 512


def test_a_near_length_corrects_the_prediction() -> None:
    keep(chosen(64, "native"), 30.0, seq_len=300, predicted_ms=10.0)
    made = plan(chunk=64)
    assert not measured(made)
    near = next(each for each in made.candidates if (each.chunk, each.cumsum) == (64, "native"))
    assert near.correction == pytest.approx(3.0)
    keep(chosen(64, "native"), 5.0)
    assert measured(plan(chunk=64)) == {chosen(64, "native"): 5.0}


def test_later_measurements_count() -> None:
    keep(chosen(64, "native"), 5.0)
    keep(chosen(64, "native"), 6.0)
    assert measured(plan(chunk=64)) == {chosen(64, "native"): 6.0}


def test_a_noisier_measurement_does_not_replace_a_better_one() -> None:
    keep(chosen(64, "native"), 9.0, runs=1, spread_ms=0.0)  # of one run alone the spread says nothing
    keep(chosen(64, "native"), 2.3, runs=9, spread_ms=0.2)
    keep(chosen(64, "native"), 14.74, runs=3, spread_ms=0.9)
    keep(chosen(64, "native"), 9.0, runs=1, spread_ms=0.0)
    assert measured(plan(chunk=64)) == {chosen(64, "native"): 2.3}
    keep(chosen(64, "native"), 2.5, runs=12, spread_ms=0.3)
    assert measured(plan(chunk=64)) == {chosen(64, "native"): 2.5}, "about as certain, and later"
    shown = next(each for each in plan(chunk=64).as_dict()["candidates"] if "measured_ms" in each)
    assert (shown["measured_ms"], shown["spread_ms"], shown["runs"]) == (2.5, 0.3, 12)


def test_of_other_lengths_the_nearest_corrects() -> None:
    keep(chosen(64, "native"), 30.0, seq_len=480, predicted_ms=10.0)
    keep(chosen(64, "native"), 20.0, seq_len=300, predicted_ms=10.0)
    near = next(each for each in plan(chunk=64).candidates if (each.chunk, each.cumsum) == (64, "native"))
    assert (near.correction, near.near) == (pytest.approx(3.0), 480)


def test_corrections_are_by_strategy_and_by_chunk() -> None:
    found = candidates({chosen(c, s): 1.0 for c in (64, 128) for s in ("scan", "native")})
    ratios = {0: 4.0, 1: 2.0, 2: 8.0}  # 64 scan, 64 native, 128 scan
    made = corrected([replace(each, measured_ms=ratios.get(i)) for i, each in enumerate(found)], ratios, cautious=False)
    assert made[3].ms == pytest.approx(4.0 * (8.0 / 4.0) * (2.0 / 4.0))
    assert corrected(made, {}) == made
    assert corrected(found, {0: 1.0})[1].correction == DOUBT
    assert corrected(found, ratios)[3].correction == pytest.approx(4.0 * (8.0 / 4.0) * DOUBT), "native gets no credit"


def test_corrections_are_by_tile_too() -> None:
    found = candidates({Settings(tile=t, cumsum=s): 1.0 for t in (16, 64) for s in ("scan", "native")})
    made = corrected(found, {0: 4.0, 1: 2.0, 2: 8.0}, cautious=False)  # 16 scan, 16 native, 64 scan
    assert made[3].ms == pytest.approx(4.0 * (8.0 / 4.0) * (2.0 / 4.0))


def break_garbage() -> None:
    store_path().write_bytes(b"garbage" * 1000)


def break_foreign() -> None:
    with sqlite3.connect(store_path()) as other:
        other.execute("CREATE TABLE songs (name TEXT)")
    other.close()


def break_schema() -> None:
    keep(chosen(64, "native"), 5.0)
    with sqlite3.connect(store_path()) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()


def break_pages() -> None:
    keep(chosen(64, "native"), 5.0)
    content = bytearray(store_path().read_bytes())
    content[100:] = b"\xa5" * (len(content) - 100)
    store_path().write_bytes(bytes(content))


def break_folder() -> None:
    store_path().mkdir()


@pytest.mark.parametrize("damage", [break_garbage, break_foreign, break_schema, break_pages, break_folder])
def test_a_broken_store_is_a_miss_with_one_warning(cache: Path, damage) -> None:  # type: ignore[no-untyped-def]
    cache.mkdir()
    damage()
    with pytest.warns(UserWarning, match="measurements are left out") as caught:
        made = plan(chunk=64)
    assert len(caught) == 1
    assert str(store_path()) in str(caught[0].message)
    assert made == plan(chunk=64, measured=False)


def test_a_locked_store_is_a_miss_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    from flashir.planning.measurements import store

    monkeypatch.setattr(store, "READER_WAITS_S", 0.05)
    keep(chosen(64, "native"), 5.0)
    holder = sqlite3.connect(store_path(), isolation_level=None)
    try:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        holder.execute("UPDATE trials SET runs = 4")
        with pytest.warns(UserWarning, match="locked") as caught:
            assert not measured(plan(chunk=64))
        assert len(caught) == 1
    finally:
        holder.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measured(plan(chunk=64))


def test_an_empty_store_is_a_plain_miss(cache: Path) -> None:
    cache.mkdir()
    store_path().touch()
    assert not measured(plan(chunk=64))


def test_without_the_backend_nothing_is_looked_up(cache: Path) -> None:
    cache.mkdir()
    break_garbage()
    made = flashir.plan(MODEL, target="jax:tpu-v4", seq_len=512) if not _installed("jax") else plan(measured=False)
    assert not measured(made)


def _installed(name: str) -> bool:
    from flashir.backends.registry import backend_names

    return name in backend_names()
