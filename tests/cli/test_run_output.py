"""`flashir run --output`: which of several results is kept."""

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
    assert [each["name"] for each in told["results"]] == ["normed", "bent"]
    np.testing.assert_allclose(np.load(kept), np.maximum(first, 0), rtol=0, atol=1e-6)


LOGITS_AND_HIDDEN = """model @two(%ids: i32[B, T]) -> f32[B, T, 11], f32[B, T, 8] {
  %x = embed(%ids) {vocab = 11, dim = 8}
  %h = gau(%x) {key_dim = 4, qk_scale = "none"}
  %hidden = layer_norm(%h)
  %logits = unembed(%hidden) {tied = true}
  return %logits, %hidden
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


def test_a_result_that_there_is_not_or_that_nothing_keeps_is_refused(cli: Cli, tmp_path: Path) -> None:
    model, given = tmp_path / "two.fir", tmp_path / "x.npy"
    model.write_text(TWO)
    np.save(given, np.zeros((1, 2, 8), np.float32))
    told = cli.fails("run", model, "--ids", given, "--output", "bend")
    assert "no result 'bend'; did you mean 'bent'?" in told
    assert "--output needs -o FILE.npy" in told
