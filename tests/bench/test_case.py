"""Which cases a grid has, what is wrong with one, and the floor under each."""

from __future__ import annotations

from typing import Any

import pytest

import flashir
from flashir.bench.case import PROCESS_BYTES, Grid
from flashir.ir import Graph

FLASH = flashir.model("flash", size="tiny")
PLAIN = flashir.model("transformer++", size="tiny")


def grid(**changes: Any) -> Grid:
    return Grid(**{"models": {"flash": FLASH, "plain": PLAIN}, "targets": ["onnx:cpu"], "lengths": [64], **changes})


def test_cases_of_a_length_stand_together() -> None:
    rows = [case.row for case in grid(targets=["onnx:cpu", "torch:cpu"], lengths=[64, 128]).cases()]
    assert [(row.seq_len, row.target, row.system) for row in rows] == [
        (length, name, system)
        for length in (64, 128)
        for name in ("onnx:cpu", "torch:cpu")
        for system in ("flash", "plain")
    ]
    assert all(row.predicted_ms and row.floor_ms and row.predicted_ms > row.floor_ms for row in rows)


def test_choices_are_for_systems_that_have_them() -> None:
    found = grid(chunks=[16, 32], cumsums=["scan", "matmul"]).cases()
    choices = {(case.row.system, case.row.choice) for case in found}
    assert choices == {("flash", f"{c} {way}") for c in (16, 32) for way in ("scan", "matmul")} | {("plain", "-")}


def test_choices_that_change_nothing_are_one_case() -> None:
    model = flashir.model("flash", size="tiny", task="mlm")
    assert len(grid(models={"mlm": model}, chunks=[16]).cases()) == 1


def test_types_to_compare_are_cases_and_one_that_a_target_lacks_is_left_out() -> None:
    found = grid(models={"plain": PLAIN}, targets=["onnx:cpu", "torch:cpu"], dtypes=["float32", "bfloat16"]).cases()
    assert [case.row.place for case in found] == ["onnx:cpu", "onnx:cpu bf16", "torch:cpu", "torch:cpu bf16"]
    assert ["does not compute in bf16" in case.row.left_out for case in found] == [False, True, False, False]
    assert grid(dtypes=["float32", "half"]).problems() == [
        "dtype must be one of float32, bfloat16, float16, got 'half'"
    ]


def test_a_cumulative_sum_to_compare_is_one_over_tokens() -> None:
    performer = {"performer": flashir.model("performer", size="tiny")}
    found = grid(models=performer, cumsums=["scan", "native"]).cases()
    assert [case.row.choice for case in found] == ["tile 1 scan", "tile 1 native"]
    (planned,) = grid(models=performer).cases()
    assert planned.row.tile is not None and planned.row.choice == f"tile {planned.row.tile} {planned.row.cumsum}"


def test_a_batch_of_tokens_has_fewer_rows_the_longer_they_are() -> None:
    found = grid(models={"plain": PLAIN}, lengths=[64, 256, 4096], batch=None, tokens=1024).cases()
    assert [case.row.batch for case in found] == [16, 4, 1]


def test_a_row_that_is_longer_than_a_batch_of_tokens_is_a_problem() -> None:
    found = grid(lengths=[8, 64], batch=None, tokens=10).problems()
    assert found == ["a batch of 10 tokens has no room for a row of 64"]


def test_all_problems_at_once() -> None:
    found = grid(targets=["onnx:cpu", "torch:h200", "jax:cpuu"], lengths=[0, 64], chunks=[-1], training=True).problems()
    text = "\n".join(found)
    for words in (
        "seq_len must be",
        "torch:h200 cannot run here",
        "'jax:cpuu'",
        "onnx:cpu cannot train",
        "chunk must be",
    ):
        assert words in text
    assert len(found) == len(set(found))


def test_a_choice_that_no_system_has_is_a_problem() -> None:
    assert grid(models={"plain": PLAIN}, chunks=[16]).problems() == ["plain: no model has a chunk to set"]
    mlm = flashir.model("flash", size="tiny", task="mlm")
    assert grid(models={"mlm": mlm}, cumsums=["scan"]).problems() == ["mlm: no model has a cumsum to set"]


def test_what_does_not_fit_the_target_is_left_out_with_the_number() -> None:
    (case,) = grid(models={"plain": PLAIN}, lengths=[2**20], batch=64).cases()
    assert "needs at least" in case.row.left_out and "GiB" in case.row.left_out


def test_what_is_too_long_for_a_model_is_left_out() -> None:
    model = flashir.model("flash-quad", size="tiny", depth=1, qk_scale="max_len", max_len=32)
    (case,) = grid(models={"quad": model}, lengths=[64]).cases()
    assert "max_len" in case.row.left_out


def test_a_case_whose_planning_breaks_is_a_row_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def planned(model: Graph, *given: Any, **more: Any) -> Any:
        if model is PLAIN:
            raise MemoryError
        return flashir.plan(model, *given, **more)

    monkeypatch.setattr("flashir.bench.case.plan", planned)
    first, second = (case.row for case in grid().cases())
    assert second.failed == "MemoryError" and not first.problem


def test_a_process_needs_more_than_its_case() -> None:
    (case,) = grid(models={"flash": FLASH}).cases()
    assert case.on_host and case.card_bytes == 0
    assert case.host_bytes == PROCESS_BYTES + (case.row.predicted_bytes or 0)
