"""Narrow weights by export: what they cost is measured, and what costs too much is not written."""

import os
from importlib import import_module

import numpy as np
import pytest

import flashir
from flashir.backends.narrow_weights import WEIGHTS
from flashir.backends.registry import backend
from flashir.errors import ArtefactError, InputError, SettingError, TargetError
from flashir.exporting.quantise import ROWS, rows_of
from flashir.generation.generate import restored
from flashir.models.parameters import unit
from flashir.reference.compare import relative_error
from flashir.reference.narrowing import GROWTH
from tests.cover import grid

KINDS = ("int8", "float16")


@pytest.fixture(scope="module")
def model():
    return flashir.model("flash", d_model=32, depth=2, key_dim=16, vocab=64, chunk=16)


@pytest.fixture(scope="module")
def text():
    return rows_of(np.random.default_rng(0).integers(0, 64, (2, 40)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_narrow_weights_cost_is_measured_on_text_that_the_model_writes(model, tmp_path, kind):
    made = flashir.export(model, tmp_path, quantize=kind)
    found = made.quantised
    assert (found.kind, found.text) == (kind, "of the float model itself")
    assert found.tokens == ROWS * 511
    assert found.loss != found.float_loss
    assert abs(found.growth) < 1e-3
    assert found.float_bytes == 4 * made.plan.parameters
    assert any("narrow weights" in check for check in made.checks)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_measured_is_what_the_artefact_does_later(model, text, tmp_path, kind):
    found = flashir.export(model, tmp_path, quantize=kind, text=text).quantised
    ids = np.concatenate([row.inputs[0] for row in text])
    labels = np.concatenate([row.labels for row in text])
    _, run = backend("onnx").load(tmp_path, "cpu")
    whole = flashir.compile(model)(ids)
    for logits, loss in ((run([ids]), found.loss), (whole, found.float_loss)):
        chances = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
        assert -np.take_along_axis(chances, labels[..., None], -1).mean() == pytest.approx(loss, abs=1e-6)
    assert found.growth == pytest.approx(found.perplexity / found.float_perplexity - 1, rel=1e-3)
    assert found.tokens == labels.size
    assert backend("onnx").metadata(tmp_path / "model.onnx")[WEIGHTS] == kind


@grid(together=1, kind=KINDS, portable=(False, True))
def test_a_decoder_of_narrow_weights_continues_as_the_model_does_and_is_small(tmp_path, text, kind, portable):
    model = flashir.model("transformer++", d_model=64, depth=2, heads=2, vocab=512)
    choices = {"decode": True, "max_len": 64, "seed": 3}
    made = flashir.export(model, tmp_path, quantize=kind, text=text, portable=portable, **choices)
    (data,) = tmp_path.glob("*.data")
    assert os.path.getsize(data) < {"int8": 0.3, "float16": 0.55}[kind] * made.quantised.float_bytes
    ids = np.random.default_rng(1).integers(0, 512, (2, 20))
    _, run = backend("onnx").load(tmp_path, "cpu")
    wanted = run([ids])
    made = restored(tmp_path)
    state, logits = made.start(ids[:, :15])
    assert relative_error(logits, wanted[:, 14]) < 2e-2
    for place in range(15, 20):
        state, logits = made.extend(state, ids[:, place])
        assert relative_error(logits, wanted[:, place]) < 2e-2


@pytest.mark.slow
def test_an_artefact_that_costs_too_much_does_not_replace_the_old_one(model, tmp_path, monkeypatch):
    flashir.export(model, tmp_path)
    old = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    rounding(monkeypatch, lambda numbers: 16 * np.trunc(numbers / 16))
    with pytest.raises(ArtefactError, match=r"perplexity grows from .*, by .*%, more than 1.00%") as caught:
        flashir.export(model, tmp_path, params=unit(model), quantize="int8")
    assert (caught.value.where, "float16" in caught.value.hint) == ("quantised to int8", True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == old


def rounding(monkeypatch, change):
    """Let blocks hold other numbers than the nearest ones."""
    blocks = import_module("flashir_onnx.blocks")
    nearest = blocks.rounded
    monkeypatch.setattr(blocks, "rounded", lambda *arguments: change(nearest(*arguments)))


@pytest.mark.slow
def test_a_larger_tolerance_allows_it(model, tmp_path, monkeypatch):
    rounding(monkeypatch, lambda numbers: 4 * np.trunc(numbers / 4))
    made = flashir.export(model, tmp_path, params=unit(model), quantize="int8", tolerance=2.0)
    assert made.quantised.growth > GROWTH


def test_a_graph_that_is_not_the_models_is_refused_whatever_is_tolerated(model, text, tmp_path, monkeypatch):
    rounding(monkeypatch, lambda numbers: numbers / 2)
    with pytest.raises(ArtefactError, match="differs from the interpreter"):
        flashir.export(model, tmp_path, quantize="int8", text=text, tolerance=1e9)
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize(
    ("choices", "kind", "message"),
    [
        ({"quantize": "int3"}, SettingError, "int8, int4 or float16, got 'int3'"),
        ({"quantize": "int8", "dtype": "float16"}, SettingError, "computes in f16"),
        ({"quantize": "int8", "tolerance": -0.1}, SettingError, "tolerance must be a fraction"),
        ({"quantize": "int8", "tolerance": float("nan")}, SettingError, "tolerance must be a fraction"),
        ({"quantize": "int8", "text": []}, InputError, "no token to predict"),
        ({"quantize": "int8", "target": "jax:cpu"}, TargetError, "does not quantise"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(model, tmp_path, choices, kind, message):
    if choices.get("target") == "jax:cpu":
        pytest.importorskip("jax")
    with pytest.raises(kind, match=message):
        flashir.export(model, tmp_path / "out", **choices)
    assert not list(tmp_path.rglob("*.onnx"))


def test_a_model_that_writes_no_text_asks_for_some(tmp_path, text):
    model = flashir.model("flash", d_model=32, depth=1, key_dim=16, vocab=64, chunk=16, causal=False)
    with pytest.raises(SettingError, match="cannot generate one") as caught:
        flashir.export(model, tmp_path, quantize="int8")
    assert "text=FILE" in caught.value.hint
    assert flashir.export(model, tmp_path, quantize="int8", text=text).quantised.text == "of the text given"


@pytest.mark.parametrize("portable", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_model_of_int8_weights_alone_goes_on_with_what_they_stand_for(model, text, tmp_path, portable):
    made = flashir.export(model, tmp_path, quantize="int8", text=text, portable=portable)
    with pytest.warns(
        UserWarning, match=r"int8 weights are converted to float32.* an export with decode=True keeps them"
    ):
        _, found = restored(tmp_path).start([[1, 2, 3]])
    params = backend("onnx").stored(made.path)[1]
    wanted = flashir.init(model)
    assert all(np.abs(params[name] - wanted[name]).max() <= np.abs(wanted[name]).max() / 200 for name in wanted)
    assert np.allclose(found, flashir.decoder(made.plan.graph, params=params).start([[1, 2, 3]])[1])
