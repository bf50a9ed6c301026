"""`--output`: verbs keep some of several results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import flashir
from flashir.backends.training import Batch
from flashir.execution.trainer import new_trainer
from flashir.models.parameters import unit
from tests.cli.conftest import Cli

TWO = """model @two(%x: f32[B, T, 8]) -> f32[B, T, 8], f32[B, T, 8] {
  %normed = layer_norm(%x)
  %bent = relu(%normed)
  return %normed, %bent
}
"""


def test_a_result_is_kept_by_its_name_of_a_model_of_features(cli: Cli, tmp_path: Path) -> None:
    model, given, kept = tmp_path / "two.fir", tmp_path / "x.npy", tmp_path / "kept.npy"
    model.write_text(TWO)
    np.save(given, np.random.default_rng(0).standard_normal((2, 5, 8), np.float32))
    cli.ok("run", model, "--ids", given, "-o", kept)
    first = np.load(kept)
    assert first.min() < 0
    told = cli.json("run", model, "--ids", given, "-o", kept, "--output", "bent")
    assert [result["name"] for result in told["results"]] == ["bent"]
    np.testing.assert_allclose(np.load(kept), np.maximum(first, 0), rtol=0, atol=1e-6)


LOGITS_AND_HIDDEN = """model @two(%ids: i32[B, T]) -> f32[B, T, 11], f32[B, T, 8] {
  %x = embed(%ids) {vocab = 11, dim = 8}
  %h = gau(%x) {key_dim = 4, qk_scale = "none"}
  %hidden = layer_norm(%h)
  %logits = unembed(%hidden) {tied = true}
  return %logits, %hidden
}
"""


HIDDEN_AND_LOGITS = """model @two(%ids: i32[B, T]) -> f32[B, T, 8], f32[B, T, 256] {
  %x = embed(%ids) {vocab = 256, dim = 8}
  %hidden = gau(%x) {key_dim = 4, qk_scale = "none"}
  %h = gau(%x) {key_dim = 4, qk_scale = "none"}
  %logits = unembed(%h) {vocab = 256, tied = false}
  return %hidden, %logits
}
"""


def test_training_gradients_and_decoders_are_of_the_first_result(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "two.fir"
    path.write_text(LOGITS_AND_HIDDEN)
    checked = cli.json("check", path, "--grad", "--target", "torch:cpu", "--lengths", "3", "--batches", "1")
    assert checked["ok"] and {row["what"] for row in checked["rows"]} == {"values", "gradients"}
    both = flashir.load(path)
    params = unit(both)
    ids = np.array([[1, 2, 3, 4]])
    score = new_trainer(both, "torch:cpu", params).score(Batch((ids[:, :3],), ids[:, 1:]))
    assert score.labels == 3 and np.isfinite(score.nats)
    _, logits = flashir.decoder(both, target="onnx:cpu", params=params, max_len=8).start(ids[:, :3])
    wanted = flashir.interpret(both, params, ids[:, :3])[0]
    np.testing.assert_allclose(np.reshape(logits, -1), wanted[0, -1], rtol=0, atol=1e-4 * abs(wanted).max())


KEEP = ("--output", "logits")


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """A checkpoint that returns features, then logits of a layer of their own."""
    model = flashir.loads(HIDDEN_AND_LOGITS)
    return flashir.save_checkpoint(model, unit(model), tmp_path / "both")


def test_an_export_has_one_result_and_the_parameters_that_it_needs(cli: Cli, both: Path, tmp_path: Path) -> None:
    ids, whole = np.array([[1, 2, 3], [4, 5, 6]]), flashir.load_checkpoint(both)
    np.save(tmp_path / "ids.npy", ids)
    cli.ok("export", both, *KEEP, "-o", tmp_path / "out", "--seq-len", 8)
    exported = flashir.convert(tmp_path / "out")
    assert [value.name for value in exported.model.outputs] == ["logits"]
    assert "layers.1.proj_in.weight" in exported.params and "layers.0.proj_in.weight" not in exported.params
    cli.ok("run", tmp_path / "out", "--ids", tmp_path / "ids.npy", "-o", tmp_path / "logits.npy")
    _, logits = flashir.interpret(whole.model, whole.params, ids)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), logits, rtol=0, atol=1e-4 * abs(logits).max())


@pytest.mark.slow
def test_every_verb_takes_the_logits_wherever_they_are(cli: Cli, both: Path, tmp_path: Path) -> None:
    (file := tmp_path / "m.fir").write_text(HIDDEN_AND_LOGITS)
    (text := tmp_path / "a.txt").write_text("0123456789" * 9)
    assert cli.json("check", both, *KEEP, "--lengths", "3")["ok"]
    assert cli.json("check", file, *KEEP, "--params", both, "--lengths", "3")["ok"]
    cli.json("plan", both, *KEEP, "--seq-len", 8)
    assert len(cli.json("generate", both, *KEEP, "--prompt", "a", "--tokens", 3)["results"][0]["tokens"]) == 3
    cli.json("export", both, "-o", tmp_path / "out", "--seq-len", 8)
    assert cli.json("check", tmp_path / "out", *KEEP, "--lengths", "3")["ok"]
    wanted, got = (cli.json("eval", model, *KEEP, "--data", text)["loss"] for model in (both, tmp_path / "out"))
    assert got == pytest.approx(wanted, rel=1e-4)


def test_names_that_are_no_results_are_refused(cli: Cli, tmp_path: Path) -> None:
    model = tmp_path / "two.fir"
    model.write_text(TWO)
    for verb in ("run", "check", "export", "generate", "plan", "tune"):
        told = cli.fails(verb, model, "--output", "bend", "--output", "normed", "--output", "normed")
        assert "it returns no 'bend'; did you mean 'bent'?" in told
        assert "normed is named twice" in told and "its results are normed, bent" in told
