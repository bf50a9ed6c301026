"""Models that are no usual language models: fixed sizes or types, no inputs, results that are no floats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import flashir
from flashir.reference.compare import relative_error
from tests.cli.conftest import Cli

FIXED = """model @fixed(%ids: i32[B, 24]) -> f32[B, 24, 256] {
  %x = embed(%ids) {vocab = 256, dim = 16}
  %z = flash(%x) {key_dim = 8, chunk = 8}
  %n = layer_norm(%z)
  %l = unembed(%n) {vocab = 256}
  return %l
}
"""
ROWS = FIXED.replace("@fixed", "@rows").replace("B, 24", "2, T")
POSITIVE = """model @positive(%ids: i32[B, T]) -> bool[B, T] {
  %x = embed(%ids) {vocab = 256, dim = 16}
  %m = reduce_mean(%x) {axes = [2]}
  %zero = constant() {value = 0.0}
  %l = less(%zero, %m)
  return %l
}
"""
ONE = """model @one() -> f32[] {
  %c = constant() {value = 1.0}
  return %c
}
"""
MEAN = """model @mean(%ids: i32[B, T]) -> f32[] {
  %x = embed(%ids) {vocab = 256, dim = 16}
  %m = reduce_mean(%x) {axes = [0, 1, 2]}
  return %m
}
"""
FEATURES = """model @features(%x: f32[B, T, 16]) -> f32[B, T, 16] {
  %z = flash(%x) {key_dim = 8, chunk = 8}
  %n = layer_norm(%z)
  return %n
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a text and each of the models."""
    for text in (FIXED, ROWS, POSITIVE, ONE, MEAN, FEATURES):
        (tmp_path / f"{flashir.loads(text).name}.fir").write_text(text)
    (tmp_path / "text.txt").write_text("It was the best of times, it was the worst of times. " * 40)
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        ("plan", "--seq-len", 16),
        ("export", "--static", "--length", 16, "-o", "out"),
        ("train", "--data", "text.txt", "--steps", 1, "--seq-len", 16, "-o", "run"),
    ],
    ids=lambda line: line[0],
)
def test_another_length_than_the_fixed_one_is_refused(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, line: tuple[object, ...]
) -> None:
    monkeypatch.chdir(folder)
    verb, *options = line
    error = cli.fails(verb, "fixed.fir", *options)
    assert "rows of 24 tokens" in error and "16" in error
    assert not (folder / "out").exists() and not (folder / "run").exists()


def test_a_benchmark_leaves_out_lengths_that_the_model_does_not_take(cli: Cli, folder: Path) -> None:
    """Its tokens per second would be those of another length."""
    line = ("bench", folder / "fixed.fir", "--lengths", "16,24", "--rounds", 1, "-o", folder / "bench")
    short, right = cli.json(*line)["rows"]
    assert "takes any number of rows of 24 tokens, got 1 row of 16 tokens" in short["left_out"]
    assert not short["samples_ms"] and right["samples_ms"]


@pytest.mark.parametrize(
    "line",
    [("generate", "--prompt", "It was"), ("export", "--quantize", "int8"), ("export", "--for", "hub")],
    ids=lambda line: line[-1],
)
def test_a_decoder_needs_any_number_of_rows(cli: Cli, folder: Path, line: tuple[str, ...]) -> None:
    verb, *options = line
    where = ("-o", folder / "out") if verb == "export" else ()
    error = cli.fails(verb, folder / "rows.fir", *options, *where)
    assert "ids: i32[2, T]" in error and "any number of rows of any length" in error


@pytest.mark.parametrize("name", ["positive", "one"])
@pytest.mark.parametrize(
    "target",
    ["onnx:cpu", *(pytest.param(f"{name}:cpu", marks=pytest.mark.slow) for name in ("torch", "jax", "openvino"))],
)
def test_results_that_are_no_floats_and_models_without_inputs_are_verified(
    cli: Cli, folder: Path, name: str, target: str
) -> None:
    cli.ok("export", folder / f"{name}.fir", "--target", target, "-o", folder / "out")
    assert cli.json("check", folder / "out", "--target", target)["ok"]


def test_whole_numbers_and_bools_that_differ_at_all_are_errors() -> None:
    """A relative error would let large numbers be off by one."""
    large = np.array([100_000, 1], np.int32)
    assert relative_error(large + np.int32(1), large) == 1.0
    assert relative_error(large, large.astype(np.int64)) == 0.0
    assert relative_error(np.array([True, False]), np.array([True, True])) == 1.0


def test_a_scalar_is_nothing_to_learn(cli: Cli, folder: Path) -> None:
    (folder / "labels.jsonl").write_text('{"text": "They won.", "label": "sport"}\n')
    error = cli.fails("train", folder / "mean.fir", "--data", folder / "labels.jsonl", "-o", folder / "run")
    assert "@mean: the result f32[] is neither logits nor scores" in error


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("positive", "less(%zero: f32[], %m: bf16[B, T]): @positive cannot compute in bfloat16"),
        ("features", "dtype bfloat16 has no effect on @features"),
    ],
)
def test_a_dtype_that_the_text_does_not_allow_is_refused(cli: Cli, folder: Path, name: str, problem: str) -> None:
    assert problem in cli.fails("plan", folder / f"{name}.fir", "--dtype", "bfloat16")
    types = cli.json("plan", folder / f"{name}.fir", "--dtype", "auto")["types"]
    assert [(kind["dtype"], bool(kind["left_out"])) for kind in types] == [("float32", False), ("bfloat16", True)]
