"""compile: what runs, what is refused before it runs, and that other lengths than planned work."""

import numpy as np
import pytest

import flashir
from flashir.errors import FlashirError, InputError, ParameterError, SettingError, TargetError
from flashir.execution.compile import Runnable
from flashir.models.parameters import unit
from flashir.reference.compare import relative_error


@pytest.fixture(scope="module")
def model():
    return flashir.model("flash", size="tiny", chunk=16, cumsum="native")


@pytest.fixture(scope="module")
def params(model):
    return flashir.init(model, seed=1)


@pytest.fixture(scope="module")
def run(model, params) -> Runnable:
    return flashir.compile(model, "onnx:cpu", params, seq_len=64)


def tokens(batch, length):
    return np.random.default_rng(0).integers(0, 256, (batch, length))


@pytest.mark.parametrize(("batch", "length"), [(1, 64), (2, 1), (3, 15), (1, 16), (1, 17), (2, 100), (1, 0), (0, 5)])
def test_any_batch_and_length_equal_the_interpreter(model, params, run, batch, length):
    ids = tokens(batch, length)
    wanted = flashir.interpret(model, params, ids)[0]
    got = run(ids)
    assert got.dtype == np.float32 and got.shape == (batch, length, 256)
    assert relative_error(got, wanted) < 1e-5


def test_segments_go_by_name():
    model = flashir.model("flash", size="tiny", chunk=16, segments=True)
    params = flashir.init(model)
    run = flashir.compile(model, params=params)
    ids = tokens(1, 40)
    segment_ids = np.repeat([[0, 1]], 20, axis=1)
    wanted = flashir.interpret(model, params, ids, segment_ids)[0]
    assert relative_error(run(ids, segment_ids=segment_ids), wanted) < 1e-5
    with pytest.raises(InputError, match="'segment_ids' is missing"):
        run(ids)


def test_no_parameters_are_those_of_init(model):
    ids = tokens(1, 20)
    wanted = flashir.compile(model, params=flashir.init(model))(ids)
    assert np.array_equal(flashir.compile(model)(ids), wanted)


def test_an_open_model_takes_the_chunk_of_its_parameters():
    auto = flashir.model("flash", size="tiny")
    run = flashir.compile(auto, params=flashir.init(auto))
    assert run.plan.chunk == 256 and run.plan.cumsum in ("scan", "matmul", "native")


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (np.array([[0, 256]]), "1 token id outside 0 .. 255, the first at (0, 1): 256"),
        (np.array([[-1, 3]]), "1 token id outside 0 .. 255, the first at (0, 0): -1"),
        (np.array([[2**62]]), "token id outside 0 .. 255"),
        (np.array([[0.5, 1.0]]), "ids must hold whole numbers, got float64"),
        (np.array([["a"]]), "ids must hold whole numbers"),
        (np.array([1, 2, 3]), "ids must have 2 axes"),
        (np.zeros((2, 3, 4), int), "ids must have 2 axes"),
        ([[1], [2, 3]], "ids must be an array"),
    ],
)
def test_inputs_that_make_no_sense_are_refused(run, ids, told):
    with pytest.raises(InputError) as caught:
        run(ids)
    assert told in str(caught.value)


def test_inputs_are_named_in_the_refusal(run):
    with pytest.raises(InputError, match=r"no input 'mask'[\s\S]*takes \(ids: i32\[B, T\]\)"):
        run(tokens(1, 4), mask=np.zeros((1, 4)))
    with pytest.raises(InputError, match="given twice"):
        run(tokens(1, 4), ids=tokens(1, 4))
    with pytest.raises(InputError, match="takes 1 input, got 2"):
        run(tokens(1, 4), tokens(1, 4))


def test_segment_ids_may_be_any_of_32_bits():
    model = flashir.model("flash", size="tiny", chunk=4, segments=True, causal=False)
    params = unit(model)
    run = flashir.compile(model, params=params)
    ids, least, most = tokens(2, 6), -(2**31), 2**31 - 1
    segment_ids = np.array([[0, 0, least, most, least, least], [0, 0, 0, 0, most, most]])
    wanted = flashir.interpret(model, params, ids, segment_ids)[0]
    near = flashir.interpret(model, params, ids, np.clip(segment_ids, -1, 1))[0]
    assert np.array_equal(wanted, near)
    assert relative_error(run(ids, segment_ids=segment_ids), near) < 1e-5
    with pytest.raises(InputError, match=r"segment_ids has 12 numbers outside -2147483648 \.\. 2147483647"):
        run(ids, segment_ids=np.full(ids.shape, 2**31))


def test_a_run_that_memory_cannot_hold_is_refused_before_it_starts(run):
    vast = np.broadcast_to(np.zeros((1, 1), np.int8), (1, 10**10))
    with pytest.raises(InputError, match=r"B = 1, T = 10000000000 needs .* GiB, onnx:cpu has"):
        run._admit({"B": 1, "T": vast.shape[1]})


def test_a_sequence_beyond_max_len_is_refused():
    model = flashir.model("flash-quad", size="tiny", max_len=32)
    run = flashir.compile(model)
    assert run(tokens(1, 32)).shape == (1, 32, 256)
    with pytest.raises(InputError, match="spans max_len = 32 positions, the sequence has 33"):
        run(tokens(1, 33))


def test_every_problem_of_the_parameters_is_listed(model, params):
    broken = dict(params)
    del broken["embed.weight"]
    broken["layers.0.proj_out.bias"] = np.zeros(3, np.float32)
    broken["layers.1.norm.scale"] = np.full(64, np.nan, np.float32)
    broken["layers.0.proj_in.bias"] = np.zeros(272, int)
    broken["layers.9.norm.scale"] = np.zeros(64, np.float32)
    broken["pos.scale"] = 1e300  # finite, but no float32
    broken["final_norm.bias"] = [[1.0], [2.0, 3.0]]
    broken[3] = np.zeros(1, np.float32)
    with pytest.raises(ParameterError) as caught:
        flashir.compile(model, params=broken)
    told = str(caught.value)
    assert len(caught.value.problems) == 8
    parts = ("embed.weight is missing", "(64,), got (3,)", "64 numbers that are not finite", "int64", "layers.9")
    for part in (*parts, "pos.scale has 1 numbers", "final_norm.bias must be an array", "unexpected parameter 3"):
        assert part in told


def test_rechunking_warns_and_keeps_the_distances_of_both(model, params):
    with pytest.warns(UserWarning, match="rechunked from 16 to 8"):
        run = flashir.compile(model, params=params, chunk=8, rechunk=True)
    assert run.plan.chunk == 8 and run(tokens(1, 20)).shape == (1, 20, 256)
    with pytest.raises(SettingError, match="locked"):
        flashir.compile(model, params=params, chunk=8)


@pytest.mark.parametrize(
    ("target", "told"), [("torch:tpu", "unknown target"), ("nowhere:cpu", "unknown target"), ("onnx", "must look like")]
)
def test_targets_that_cannot_run_are_refused(model, params, target, told):
    with pytest.raises(TargetError, match=told):
        flashir.compile(model, target, params)


def test_a_device_that_is_not_here_cannot_run(model, params):
    with pytest.raises(FlashirError):
        flashir.compile(model, "jax:tpu-v4", params)
