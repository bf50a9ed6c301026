"""What a model may return: a value that is an input, on every backend, compiled and exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import flashir
from tests.backends.support import at_hand

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.mark.parametrize("name", [name for name in ("onnx", "torch", "jax") if at_hand(name)])
@pytest.mark.parametrize("result", ["x", "y"])
def test_an_input_may_be_the_result(name: str, result: str, tmp_path: Path) -> None:
    model = flashir.loads(f"model @m(%x: f32[B, 4], %y: f32[B, 4]) {{ %z = add(%x, %y)\n return %{result} }}")
    wanted = {"x": ROWS, "y": -ROWS}[result]
    assert np.array_equal(flashir.compile(model, f"{name}:cpu")(ROWS, -ROWS), wanted)
    flashir.export(model, tmp_path, target=f"{name}:cpu")


@pytest.mark.skipif(not at_hand("onnx"), reason="not installed")
def test_names_of_results_in_onnx_are_their_own(tmp_path: Path) -> None:
    import onnx

    from flashir_onnx.emit import emit

    model = flashir.loads("model @m(%x: f32[B, 4]) { %z = relu(%x)\n return %z, %x, %z, %z }")
    made = emit(model, {}).model
    onnx.checker.check_model(made, full_check=True)
    assert [each.name for each in made.graph.output] == ["z", "x_result", "z_result", "z_result_2"]
