"""In float16, what grows with the length is right on 4,096 tokens, as on 65: runs, decoders and exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.errors import ResultError
from flashir.generation.generate import restored
from flashir.ir import DType, Graph
from flashir.models.parameters import unit
from flashir.reference.compare import TOLERANCE, relative_error

LONG = 4096
LIMIT = TOLERANCE[DType.F16]
TARGETS = ["onnx:cpu", *(pytest.param(each, marks=pytest.mark.slow) for each in ("torch:cpu", "jax:cpu"))]
LINEAR: dict[str, Any] = {"lin_norm": "none", "chunk": 64}
MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("flash", {**LINEAR, "cumsum": cumsum}) for cumsum in ("scan", "matmul", "native")),
    ("flash", {**LINEAR, "cumsum": "native", "task": "mlm"}),
    ("flash-quad", {"qk_scale": "sqrt_key"}),
)
SUMS = """model @sums(%ids: i32[B, T]) -> f16[B, T, 8] {
  %x = embed(%ids) {vocab = 16, dim = 8, dtype = f16}
  %y = cumsum(%x) {axis = 1}
  return %y
}"""


def small(name: str, settings: dict[str, Any]) -> Graph:
    return flashir.model(name, d_model=32, depth=2, vocab=61, key_dim=8, **settings)


def ids(length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 61, (1, length))


@pytest.mark.slow_where(name="flash-quad")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "settings"), MODELS, ids=str)
def test_long_texts_are_as_in_float32(target: str, name: str, settings: dict[str, Any]) -> None:
    model, tokens = small(name, settings), ids(LONG)
    params = unit(model)
    wanted = flashir.compile(model, target, params)(tokens)
    assert relative_error(flashir.compile(model, target, params, dtype="float16")(tokens), wanted) < LIMIT


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "settings"), [MODELS[2], pytest.param(*MODELS[4], marks=pytest.mark.slow)], ids=str)
def test_decoders_of_long_texts_are_as_in_float32(target: str, name: str, settings: dict[str, Any]) -> None:
    model, tokens = small(name, settings), ids(LONG)
    params = unit(model)
    wanted = flashir.compile(model, target, params)(tokens)[:, -3:]
    decoder = flashir.decoder(model, target, params, dtype="float16", max_len=LONG)
    state, logits = decoder.start(tokens[:, :-2])
    found = [logits]
    for token in tokens[0, -2:]:
        state, logits = decoder.extend(state, [token])
        found.append(logits)
    assert relative_error(np.stack(found, axis=1), wanted) < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_an_export_is_run_at_the_length_that_was_planned_for(target: str, tmp_path: Path) -> None:
    model = small(*MODELS[2])
    params, tokens = unit(model), ids(LONG)
    decode = target == "onnx:cpu"
    found = flashir.export(model, tmp_path, target, params, dtype="float16", seq_len=LONG, decode=decode)
    assert f"finite on {LONG} tokens in float16" in found.checks
    if decode:
        assert f"the decoder is finite on {LONG} tokens in float16" in found.checks
        _, logits = restored(tmp_path, target).start(tokens)
        assert relative_error(logits, flashir.compile(model, target, params)(tokens)[:, -1]) < LIMIT
    assert not any("finite" in check for check in flashir.export(model, tmp_path / "wide", target, params).checks)


@pytest.mark.parametrize("target", TARGETS)
def test_what_leaves_the_range_all_the_same_is_refused(target: str, tmp_path: Path) -> None:
    """The result itself is float16, so nothing can be kept in float32."""
    model, params = flashir.loads(SUMS), {"embed.weight": np.full((16, 8), 20, np.float32)}
    with pytest.raises(ResultError, match=r"on 4096 tokens are not finite: .* the first is token 3,275 of row 0"):
        flashir.export(model, tmp_path / "out", target, params, seq_len=LONG)
    assert not (tmp_path / "out").exists()
    assert "finite on 2048 tokens in float16" in flashir.export(model, tmp_path, target, params, seq_len=2048).checks
