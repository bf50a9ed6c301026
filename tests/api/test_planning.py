"""plan: candidates, policies, what a user sets by hand, and the reasons given."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flashir
from flashir.errors import FlashirError, ParameterError, SettingError, TargetError
from flashir.ir import Builder
from flashir.ir.settings import Settings
from flashir.planning.candidates import QUALITY_SLACK, Candidate, best
from flashir.planning.explain import explain
from flashir.planning.workload import Workload
from flashir.transforms.settle_choices import settled_values, slots

SLOTS = slots(flashir.model("flash", size="tiny"))
TARGETS = ("onnx:cpu", "torch:h200")


@pytest.fixture(scope="module")
def model():
    return flashir.model("flash", size="tiny")


def plan(model, target="onnx:cpu", **options):
    return flashir.plan(model, target, measured=False, **options)


@pytest.mark.parametrize(("target", "training"), list(zip(TARGETS, (False, True), strict=True)))
def test_a_plan_settles_the_model_and_lists_what_it_considered(model, target, training):
    found = plan(model, target, seq_len=2048, training=training)
    assert settled_values(found.graph, "chunk") == (found.chunk,)
    assert {(each.chunk, each.cumsum) for each in found.candidates} == {
        (chunk, cumsum) for chunk in (64, 128, 256, 512, 1024) for cumsum in ("scan", "matmul", "native")
    }
    assert (found.chunk, found.cumsum) in {(each.chunk, each.cumsum) for each in found.candidates}
    assert found.predicted_ms > 0 and found.peak_bytes > 4 * found.parameters
    assert found.why


def test_the_json_of_a_plan_is_the_contract(model):
    found = plan(model, seq_len=512).as_dict()
    wanted = "model target batch seq_len training chunk cumsum predicted_ms peak_bytes parameters candidates"
    assert set(wanted.split()) <= set(found)
    assert set(found["candidates"][0]) == {"chunk", "cumsum", "predicted_ms", "peak_bytes"}


def test_fastest_takes_the_fastest_and_quality_the_largest_close_to_it(model):
    fastest, quality = (plan(model, policy=policy, seq_len=4096) for policy in ("fastest", "quality"))
    least = min(each.predicted_ms for each in fastest.candidates)
    assert fastest.predicted_ms == least
    close = [each for each in quality.candidates if each.predicted_ms <= QUALITY_SLACK * least]
    assert quality.chunk == max(each.chunk for each in close)


def chosen(chunk: int, cumsum: str) -> Settings:
    return Settings(chunk=chunk, cumsum=cumsum)


CHOICES = st.tuples(st.sampled_from((64, 128, 256)), st.sampled_from("abc"))


@given(st.dictionaries(CHOICES, st.floats(0.1, 10), min_size=1))
def test_policies_hold_for_any_times(times):
    candidates = [Candidate(chosen(chunk, cumsum), ms, 0, terms={"work": ms}) for (chunk, cumsum), ms in times.items()]
    fastest, quality = best(candidates, "fastest"), best(candidates, "quality")
    assert fastest.ms == min(times.values())
    assert quality.ms <= QUALITY_SLACK * fastest.ms
    assert not any(c.chunk > quality.chunk and c.ms <= QUALITY_SLACK * fastest.ms for c in candidates)
    assert explain(quality, candidates, "quality", SLOTS)


def test_what_was_measured_outweighs_what_was_predicted():
    candidates = [
        Candidate(chosen(64, "scan"), 1.0, 0, measured_ms=9.0),
        Candidate(chosen(64, "native"), 2.0, 0, measured_ms=3.0),
    ]
    assert best(candidates, "fastest").cumsum == "native"


def test_a_length_below_a_chunk_leaves_larger_chunks_out(model):
    assert {each.chunk for each in plan(model, seq_len=100).candidates} == {64, 128}


def test_models_without_a_choice_say_so():
    quad = plan(flashir.model("flash-quad", size="tiny"), seq_len=128)
    assert (quad.chunk, quad.cumsum, len(quad.candidates)) == (None, None, 1)
    both = plan(flashir.model("flash", size="tiny", task="mlm"), seq_len=256)
    assert both.chunk is not None and both.cumsum is None  # nothing is summed up in order
    masked = plan(flashir.model("flash", size="tiny", segments=True), seq_len=256)
    assert masked.cumsum == "matmul"  # segments force the masked form


def test_by_hand_beats_the_cost_model(model):
    found = plan(model, chunk=48, cumsum="scan")
    assert (found.chunk, found.cumsum, len(found.candidates)) == (48, "scan", 1)
    again = plan(found.graph, chunk=96)
    assert again.chunk == 96  # no parameters, no lock


def test_the_chunk_is_locked_once_parameters_exist(model):
    settled = plan(model, chunk=64).graph
    params = flashir.init(settled)
    assert plan(settled, params=params).chunk == 64
    with pytest.raises(SettingError, match=r"locked to 64, got 128.*another function") as caught:
        plan(settled, params=params, chunk=128)
    assert caught.value.hint == "rechunk=True overrides the lock"


def test_parameters_tell_the_chunk_of_an_open_model(model):
    for chunk in (40, 64, 256):
        assert plan(model, params=flashir.init(plan(model, chunk=chunk).graph)).chunk == chunk
    assert plan(model, params=flashir.init(model)).chunk == 256
    long = plan(model, params=flashir.init(plan(model, chunk=1024).graph))
    assert {each.chunk for each in long.candidates} == {512, 1024}
    with pytest.raises(ParameterError, match=r"layers.0.rel_bias.w must have shape .*, got \(10,\)"):
        plan(model, params={"layers.0.rel_bias.w": flashir.init(model)["layers.0.rel_bias.w"][:10]})


def test_a_plan_that_does_not_fit_is_refused_with_the_number():
    large = flashir.model("flash-quad", size="pg19")
    with pytest.raises(TargetError, match=r"needs at least \d+\.\d+ GiB on torch:v100, which has 14\.99 GiB"):
        plan(large, "torch:v100", batch=64, seq_len=8192, training=True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch": 0}, "batch must be a whole number from 1"),
        ({"seq_len": -5}, "seq_len must be a whole number from 1"),
        ({"seq_len": 2**40}, "seq_len must be a whole number from 1"),
        ({"policy": "best"}, "policy must be one of quality, fastest"),
        ({"chunk": 0}, "chunk must be a whole number from 1"),
        ({"cumsum": "loop"}, "cumsum must be one of scan, matmul, native"),
        ({"dtype": "f8"}, "dtype must be one of float32, bfloat16, float16, got 'f8'"),
        ({"dtype": "int32"}, "dtype must be one of float32, bfloat16, float16, got 'int32'"),
        ({"dtype": 16}, "dtype must be a string, got 16"),
        ({"target": "onnx:tpu"}, "unknown target 'onnx:tpu'"),
    ],
)
def test_settings_out_of_range_are_refused(model, options, told):
    with pytest.raises(FlashirError, match=told):
        plan(model, **options)


def test_numpy_integers_are_numbers(model):
    found = plan(model, batch=np.int64(2), seq_len=np.uint16(100), chunk=np.int32(48))
    again = plan(model, batch=2, seq_len=100, chunk=48)
    assert found == again and str(found.graph) == str(again.graph)
    assert json.dumps(found.as_dict()) == json.dumps(again.as_dict())
    with pytest.raises(SettingError, match="seq_len must be a whole number, got"):
        plan(model, seq_len=np.float64(100))
    with pytest.raises(SettingError, match="batch must be a whole number, got"):
        plan(model, batch=np.bool_(True))


def test_a_dtype_is_one_error_among_others(model):
    with pytest.raises(SettingError, match=r"chunk must be[\s\S]*dtype must be"):
        plan(model, chunk=0, dtype="f8")


def test_a_model_without_chunks_takes_none():
    with pytest.raises(SettingError, match="has no op with one"):
        plan(flashir.model("flash-quad", size="tiny"), chunk=64)


def test_choices_differ_between_targets_and_say_the_term_that_decided():
    base = flashir.model("flash", size="base")
    plans = [plan(base, target, batch=32, seq_len=2048) for target in ("onnx:cpu", "jax:tpu-v4", "jax:tpu-v4x32")]
    assert len({(found.chunk, found.cumsum) for found in plans}) > 1
    terms = ("matrix products", "memory traffic", "sequential steps", "padding and packing", "kernel launches")
    assert all(any(term in found.why for term in terms) for found in plans)


def test_sizes_come_from_the_workload():
    b = Builder("two")
    x, y = b.input("x", "f32[N, 4]"), b.input("y", "f32[N, M]")
    graph = b.finish(b.matmul(x, y, transpose_x=True))
    assert Workload(8, 100).sizes(graph, devices=3) == {"N": 3, "M": 100}


@pytest.mark.slow
def test_a_stack_of_a_users_own_is_planned_like_any_other():
    b = Builder("mixture")
    ids = b.input("ids", "i32[B, T]")
    x = b.scaled_sin(b.embed(ids, vocab=256, dim=32))

    def group(b, h):
        for _ in range(3):
            h = b.flash(h, key_dim=8)
        return b.gau(h, key_dim=8)

    x = b.repeat(x, times=2, body=group)
    graph = b.finish(b.unembed(b.layer_norm(x)))
    found = plan(graph, seq_len=1024)
    names = flashir.init(found.graph)
    assert settled_values(found.graph, "chunk") == (found.chunk,)
    assert {f"layers.{i}.proj_in.weight" for i in range(8)} <= set(names)


def test_reasons_compare_what_was_measured_with_what_was_measured():
    measured = Candidate(chosen(64, "native"), 1.0, 0, measured_ms=2.0, terms={"matrix products": 1.0})
    slower = Candidate(chosen(64, "matmul"), 1.0, 0, measured_ms=2.5, terms={"matrix products": 1.0})
    guessed = Candidate(chosen(128, "native"), 9.0, 0, terms={"matrix products": 9.0})
    told = explain(measured, [measured, slower, guessed], "fastest", SLOTS)
    assert "matmul takes 25.0% longer as measured." in told
    assert "128" not in told


def test_a_chunk_by_hand_must_be_that_of_the_parameters(model):
    params = flashir.init(plan(model, chunk=16).graph)
    assert plan(model, chunk=16, params=params).chunk == 16
    with pytest.raises(SettingError, match=r"chunk 8 is not that of the parameters[\s\S]*\(31,\).*\(15,\)"):
        plan(model, chunk=8, params=params)


TILES = (1, 16, 32, 64, 128, 256)


@pytest.fixture(scope="module")
def performer():
    return flashir.model("performer", size="tiny")


def tiles(graph):
    return [node.attrs["tile"] for node in graph.walk() if "tile" in node.attrs]


@pytest.mark.parametrize("target", TARGETS)
def test_a_tile_is_chosen_together_with_the_strategy(performer, target):
    found = plan(performer, target, seq_len=2048)
    assert [(each.tile, each.cumsum) for each in found.candidates] == [
        (tile, cumsum) for tile in TILES for cumsum in ("scan", "matmul", "native")
    ]
    assert (found.chunk, found.predicted_ms) == (None, min(each.predicted_ms for each in found.candidates))
    assert tiles(found.graph) == [found.tile]
    assert f"Tile {found.tile} is the fastest: tile " in found.why
    assert f"Cumulative sum by {found.cumsum}: " in found.why


def test_a_length_below_a_tile_leaves_larger_tiles_out(performer):
    assert {each.tile for each in plan(performer, seq_len=20).candidates} == {1, 16, 32}
    assert {each.tile for each in plan(performer, seq_len=1).candidates} == {1}


@pytest.mark.parametrize("cumsum", ["scan", "matmul", "native"])
def test_a_cumulative_sum_by_hand_is_one_over_tokens(performer, cumsum):
    named = flashir.model("performer", size="tiny", cumsum=cumsum)
    for found in (plan(performer, cumsum=cumsum), plan(named), plan(performer, cumsum=cumsum, policy="fastest")):
        assert [(each.cumsum, each.tile) for each in found.candidates] == [(cumsum, 1)]
        assert (found.cumsum, found.tile, tiles(found.graph)) == (cumsum, 1, [1])
        assert "Tile 1, because a cumulative sum set by hand sums over tokens, as in Table 10" in found.why


@pytest.mark.slow
def test_a_tile_by_hand_stays(performer):
    open_sum = plan(flashir.model("performer", size="tiny", tile=48))
    assert [(each.cumsum, each.tile) for each in open_sum.candidates] == [
        (cumsum, 48) for cumsum in ("scan", "matmul", "native")
    ]
    both = plan(flashir.model("performer", size="tiny", tile=48), cumsum="matmul")
    assert [(each.cumsum, each.tile) for each in both.candidates] == [("matmul", 48)]
    assert tiles(open_sum.graph) == tiles(both.graph) == [48]
    assert "Table 10" not in open_sum.why + both.why
    assert plan(plan(performer).graph, cumsum="scan").tile == plan(performer).tile  # what was planned is settled


def test_what_sums_nothing_up_has_no_tile():
    found = plan(flashir.model("performer", size="tiny", task="mlm"), seq_len=512)
    assert (found.chunk, found.cumsum, found.tile, len(found.candidates)) == (None, None, None, 1)
    assert tiles(found.graph) == [1]


def test_the_json_has_a_tile_where_the_model_has_one(model, performer):
    found = plan(performer, seq_len=16).as_dict()
    assert found["tile"] in (1, 16)
    assert {each["tile"] for each in found["candidates"]} == {1, 16}
    assert set(found["candidates"][0]) == {"chunk", "cumsum", "tile", "predicted_ms", "peak_bytes"}
    without = plan(model, seq_len=512).as_dict()
    assert "tile" not in without and not any("tile" in each for each in without["candidates"])


def test_each_op_of_a_model_has_choices_of_its_own():
    b = Builder("both")
    x = b.embed(b.input("ids", "i32[B, T]"), vocab=64, dim=16)
    for op, attrs in (
        ("flash", {"key_dim": 8}),
        ("performer", {"heads": 2}),
        ("performer", {"heads": 2, "cumsum": "native"}),
    ):
        (x,) = b.insert(op, (x,), attrs)
    found = plan(b.finish(b.unembed(x)), seq_len=64)
    strategies = ("scan", "matmul", "native")
    one, other = ("chunk", "flash.cumsum"), ("tile", "performer.cumsum")
    wanted = {one: {(64, way) for way in strategies}, other: set(product((1, 16, 32, 64), strategies))}
    for names, values in wanted.items():
        assert {tuple(each.settings[name] for name in names) for each in found.candidates} == values
    assert len(found.candidates) == 3 + 12 - 1  # the best of both is in either list
    assert found.as_dict()["choices"] == dict(found.settings)
    assert tiles(found.graph) == [found.tile, 1]
    assert settled_values(found.graph, "chunk") == (found.chunk,) == (64,)
