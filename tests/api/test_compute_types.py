"""Several compute types: which one a plan takes, what it says of the others, and what is refused."""

import numpy as np
import pytest

import flashir
from flashir.errors import ArtefactError, SettingError, TargetError
from flashir.ir import DType
from flashir.machine.profile import write_profile
from flashir.machine.targets import target
from flashir.planning.compute_types import allowed, expected_cost
from flashir.reference.arrays import rounded

MODEL = flashir.model("flash", size="tiny", depth=1, chunk=16, cumsum="matmul")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHIR_CACHE", str(tmp_path / "cache"))


def measured(name, **rates):
    """Store a profile with these rates of products."""
    write_profile(target(name, calibrated=False), {f"peak.{dtype}": rate for dtype, rate in rates.items()})


def test_types_are_named_in_any_order_and_unknown_ones_are_told_at_once():
    assert allowed("bfloat16, float32") == allowed("auto") == ("float32", "bfloat16")
    assert allowed(None) == (None,)
    with pytest.raises(SettingError) as caught:
        flashir.plan(MODEL, dtype="half,float32,single")
    assert [problem.rpartition(" ")[2] for problem in caught.value.problems] == ["'half'", "'single'"]


def test_a_rate_that_was_not_measured_on_this_machine_decides_nothing():
    plan = flashir.plan(MODEL, "torch:cpu", seq_len=64, dtype="auto", policy="fastest")
    assert (plan.dtype, plan.types[1].dtype) == ("float32", "bfloat16")
    assert "`flashir calibrate torch:cpu`" in plan.types[1].left_out and plan.types[1].left_out in plan.why


def test_the_fastest_type_is_taken_if_it_was_measured():
    measured("torch:cpu", f32=1e10, bf16=1e12)
    plan = flashir.plan(MODEL, "torch:cpu", seq_len=64, dtype="auto")
    wide, narrow = plan.types
    assert plan.dtype == "bfloat16" and plan.predicted_ms == narrow.ms < wide.ms
    assert 1e-4 < narrow.cost.error < 2e-2 and 0 < narrow.cost.growth < 1e-2
    assert f"expected {narrow.cost}" in plan.why
    told = plan.as_dict()
    assert told["dtype"] == "bfloat16" and [own["ms"] for own in told["types"]] == [wide.ms, narrow.ms]


def test_a_narrow_type_that_gains_little_is_not_taken():
    measured("torch:cpu", f32=1e10, bf16=1.001e10)
    assert flashir.plan(MODEL, "torch:cpu", seq_len=64, dtype="auto").dtype == "float32"


def test_a_type_that_calibration_could_not_measure_is_left_out():
    measured("torch:cpu", f32=1e10)
    plan = flashir.plan(MODEL, "torch:cpu", seq_len=64, dtype="auto")
    assert "could not measure peak.bf16" in plan.types[1].left_out


def test_a_type_that_the_backend_lacks_is_left_out_in_its_words():
    measured("onnx:cpu", f32=1e10, bf16=1e12)
    plan = flashir.plan(MODEL, "onnx:cpu", seq_len=64, dtype="auto")
    assert plan.dtype == "float32" and plan.types[1].ms is None
    assert "ONNX Runtime does not compute in bf16" in plan.types[1].left_out
    with pytest.raises(TargetError, match="none of the compute types") as caught:
        flashir.plan(MODEL, "onnx:cpu", seq_len=64, dtype="bfloat16,float16")
    assert len(caught.value.problems) == 2


def test_a_record_of_another_device_counts_as_it_is():
    assert flashir.plan(MODEL, "torch:h100", 64, 4096, dtype="auto", policy="fastest").dtype == "bfloat16"


def test_a_type_past_the_tolerance_is_refused_and_float32_is_not():
    with pytest.raises(TargetError, match="perplexity grows by"):
        flashir.plan(MODEL, "torch:cpu", seq_len=64, dtype="bfloat16", tolerance=1e-12)
    assert flashir.plan(MODEL, "torch:cpu", seq_len=64, dtype="float32", tolerance=0.0).dtype == "float32"
    with pytest.raises(SettingError, match="tolerance must be"):
        flashir.plan(MODEL, "torch:cpu", tolerance=-1.0)


def test_one_type_is_planned_as_before():
    plan = flashir.plan(MODEL, "torch:cpu", seq_len=64, dtype="bfloat16")
    assert not plan.types and not {"dtype", "types"} & plan.as_dict().keys()


@pytest.mark.slow
def test_compile_takes_the_type_of_the_plan():
    measured("torch:cpu", f32=1e10, bf16=1e12)
    run = flashir.compile(MODEL, "torch:cpu", seq_len=64, dtype="auto")
    assert run.plan.dtype == "bfloat16"
    assert run(np.zeros((1, 20), np.int64)).dtype == np.float32


def test_an_export_says_what_a_narrow_type_costs_and_one_past_the_tolerance_is_not_written(tmp_path):
    exported = flashir.export(MODEL, tmp_path / "kept", dtype="float16")
    assert any("in float16 perplexity grows by" in check for check in exported.checks)
    with pytest.raises(ArtefactError, match="computed in float16: perplexity grows by"):
        flashir.export(MODEL, tmp_path / "refused", dtype="float16", tolerance=0.0)
    assert not (tmp_path / "refused" / "model.onnx").exists()


@pytest.mark.slow
def test_a_tuned_type_is_one_of_those_measured():
    plan = flashir.tune(MODEL, "torch:cpu", seq_len=32, dtype="auto", policy="fastest")
    assert plan.measured_ms == min(own.ms for own in plan.types)


def test_the_expected_cost_grows_with_the_steps_of_a_type():
    costs = [expected_cost(MODEL, dtype, None) for dtype in ("float16", "bfloat16")]
    assert 4 < costs[1].error / costs[0].error < 16  # three bits of mantissa
    assert expected_cost(MODEL, "float32", None).error < 1e-12


def test_rounding_is_to_the_nearest_and_ties_are_even():
    ulp = 2.0**-7
    numbers = np.array([1 + ulp / 2, 1 + 3 * ulp / 2, 1 + 0.51 * ulp, -1 - 0.49 * ulp, np.inf, np.nan, 0.0, 1e39])
    wanted = [1, 1 + 2 * ulp, 1 + ulp, -1, np.inf, np.nan, 0, np.inf]
    np.testing.assert_array_equal(rounded(numbers, DType.BF16), wanted)
    assert rounded(numbers, DType.F32) is numbers


def test_a_plan_in_a_type_that_the_device_lacks_says_so():
    lacking, having = (flashir.plan(MODEL, name, seq_len=64, dtype="bfloat16") for name in ("onnx:cpu", "torch:cpu"))
    assert "cannot run here: ONNX Runtime does not compute in bf16" in lacking.why
    assert "cannot run" not in having.why
