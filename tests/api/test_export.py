"""export: what is written, what is checked before it replaces what was there, and what stays when that fails."""

import json
from importlib import import_module

import numpy as np
import pytest

import flashir
from flashir.backends.registry import backend
from flashir.errors import ArtefactError, SettingError, TargetError
from flashir.models.parameters import unit
from flashir.reference.compare import relative_error


@pytest.fixture(scope="module")
def model():
    return flashir.model("flash", size="tiny")


def test_an_export_is_planned_checked_and_says_so(model, tmp_path):
    found = flashir.export(model, tmp_path / "out", seq_len=512)
    assert found.path == tmp_path / "out" / "model.onnx"
    assert found.plan.chunk in (64, 128, 256, 512)
    assert any("ONNX checker" in check for check in found.checks)
    assert any("float64 interpreter" in check for check in found.checks)


def test_the_artefact_carries_its_model_and_computes_it(model, tmp_path):
    found = flashir.export(model, tmp_path, chunk=16, seed=5)
    loaded, run = backend("onnx").load(found.path, "cpu")
    assert loaded == found.plan.graph
    ids = np.random.default_rng(0).integers(0, 256, (2, 50))
    wanted = flashir.interpret(loaded, flashir.init(loaded, 5), ids)[0]
    assert relative_error(run([ids]), wanted) < 1e-4


def test_the_choices_stand_in_the_metadata(model, tmp_path):
    import onnx

    found = flashir.export(model, tmp_path, chunk=16, cumsum="scan")
    props = {each.key: each.value for each in onnx.load(found.path).metadata_props}
    plan = json.loads(props["flashir.plan"])
    assert "flashir.weights" not in props  # which narrow ones have
    assert (plan["chunk"], plan["cumsum"], plan["target"]) == (16, "scan", "onnx:cpu")


def test_float16_is_checked_by_what_float16_can_do(model, tmp_path):
    found = flashir.export(model, tmp_path, chunk=16, dtype="float16")
    assert any("(limit 2e-02)" in check for check in found.checks)


def test_what_onnx_runtime_cannot_compute_in_is_refused_before_anything_is_written(model, tmp_path):
    with pytest.raises(TargetError, match="bf16"):
        flashir.export(model, tmp_path / "out", chunk=16, dtype="bfloat16")
    assert not list(tmp_path.rglob("*.onnx"))


def test_an_artefact_that_differs_from_the_interpreter_does_not_replace_the_old_one(model, tmp_path, monkeypatch):
    old = flashir.export(model, tmp_path, chunk=16).path.read_bytes()
    monkeypatch.setattr(import_module("flashir.exporting.checks"), "interpret", lambda *_: (np.ones((1, 17, 256)),))
    with pytest.raises(ArtefactError, match="differs from the interpreter"):
        flashir.export(model, tmp_path, chunk=16, seed=1)
    assert (tmp_path / "model.onnx").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_model_that_divides_by_the_length_says_what_that_means(tmp_path):
    quad = flashir.model("flash-quad", size="tiny")
    assert any("generalises badly" in note for note in flashir.export(quad, tmp_path / "quad").notes)
    other = flashir.model("flash-quad", size="tiny", qk_scale="max_len")
    assert not flashir.export(other, tmp_path / "other").notes


def test_a_model_of_short_sequences_is_checked_on_one(tmp_path):
    found = flashir.export(flashir.model("flash-quad", size="tiny", max_len=8), tmp_path)
    assert any("interpreter on 8 tokens" in check for check in found.checks)


def test_settings_are_checked_before_work_starts(model, tmp_path):
    with pytest.raises(SettingError, match="cumsum must be one of"):
        flashir.export(model, tmp_path, cumsum="loop")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="this is not a folder"):
        flashir.export(model, tmp_path / "file", chunk=16)


def test_an_empty_result_is_no_difference():
    assert relative_error(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0
    assert relative_error(np.zeros(3), np.zeros(4)) == float("inf")
    assert not relative_error(np.array([np.nan]), np.array([1.0])) <= 1e9


def test_segments_of_a_bare_artefact_may_have_any_id(tmp_path):
    import onnxruntime

    model = flashir.model("flash", size="tiny", chunk=8, segments=True, lin_norm="none")
    path = flashir.export(model, tmp_path, params=unit(model)).path
    ids = np.random.default_rng(0).integers(0, 256, (2, 21))
    session = onnxruntime.InferenceSession(str(path))
    small = np.sort(np.random.default_rng(1).integers(0, 4, ids.shape), axis=1)
    (wanted,) = session.run(None, {"input_ids": ids, "segment_ids": small})
    for shift in (2**31, 2**40, -(2**40), 2**62):
        (got,) = session.run(None, {"input_ids": ids, "segment_ids": small + shift})
        assert np.array_equal(got, wanted)
    assert relative_error(wanted, flashir.interpret(model, unit(model), ids, small)[0]) < 1e-4


def test_the_plan_of_a_portable_export_is_of_what_it_writes(tmp_path):
    model = flashir.model("flash", size="tiny", chunk=16, cumsum="native")
    own, portable = (
        flashir.export(model, tmp_path / str(portable), portable=portable).plan for portable in (False, True)
    )
    assert portable.predicted_ms > own.predicted_ms
    assert portable == flashir.plan(model, portable=True, params=flashir.init(model))


def test_what_is_not_portable_says_where_and_how_to_mend_it(tmp_path):
    with pytest.raises(TargetError, match="has no portable form") as told:
        flashir.export(flashir.model("flash", size="tiny", chunk=4), tmp_path, "torch:cpu", portable=True)
    assert told.value.where == "torch:cpu"
    assert "target of onnx" in told.value.hint


def test_ends_are_tokens_or_nothing_is_written(model, tmp_path):
    for ends, said in ((np.array([[np.nan]]), "a list of whole numbers"), ([-1], "an end must be at least 0")):
        with pytest.raises(SettingError, match=said):
            flashir.export(model, tmp_path / "out", ends=ends)
    assert not (tmp_path / "out").exists()


def test_label_names_are_in_the_config_of_the_hub(tmp_path):
    tagger = flashir.model("flash", size="tiny", depth=1, chunk=16, predict="tags", labels=2)
    path = flashir.export(tagger, tmp_path, host="hub", labels=("noun", "verb")).path
    config = json.loads(path.with_name("config.json").read_text())
    assert config["vocab_size"] == 256
    with pytest.raises(SettingError, match="genai cannot write text with it"):
        flashir.export(tagger, tmp_path / "out", host="genai", labels=("noun", "verb"), ends=[0])
    assert config["id2label"] == {"0": "noun", "1": "verb"} and config["label2id"] == {"noun": 0, "verb": 1}
