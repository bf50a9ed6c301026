"""`flashir run --output`: which of several results is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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


def test_a_result_that_there_is_not_or_that_nothing_keeps_is_refused(cli: Cli, tmp_path: Path) -> None:
    model, given = tmp_path / "two.fir", tmp_path / "x.npy"
    model.write_text(TWO)
    np.save(given, np.zeros((1, 2, 8), np.float32))
    told = cli.fails("run", model, "--ids", given, "--output", "bend")
    assert "no result 'bend'; did you mean 'bent'?" in told
    assert "--output needs -o FILE.npy" in told
