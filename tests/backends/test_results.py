"""What a model may return: an input, several values, nothing at all; on every backend, compiled and exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import flashir
from flashir.backends import registry
from flashir.backends.protocols import Exporter
from flashir.models.parameters import unit
from flashir.reference.compare import relative_error
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


BACKENDS = [name for name in ("onnx", "torch", "jax") if at_hand(name)]
TWO = """model @two(%ids: i32[B, T]) {
  %x = embed(%ids) {vocab = 61, dim = 16}
  %hidden = mlp(%x) {expansion = 2}
  %logits = unembed(%hidden)
  return %logits, %hidden
}"""


@pytest.mark.parametrize("name", BACKENDS)
def test_several_results_are_a_tuple_in_the_order_of_return(name: str) -> None:
    model = flashir.loads(TWO)
    params = unit(model)
    ids = np.arange(10).reshape(2, 5)
    results = flashir.compile(model, f"{name}:cpu", params)(ids)
    assert isinstance(results, tuple) and [array.shape for array in results] == [(2, 5, 61), (2, 5, 16)]
    for got, wanted in zip(results, flashir.interpret(model, params, ids), strict=True):
        assert relative_error(got, wanted) < 1e-5
    empty = flashir.compile(model, f"{name}:cpu", params)(ids[:, :0])
    assert [array.shape for array in empty] == [(2, 0, 61), (2, 0, 16)]


@pytest.mark.parametrize("name", BACKENDS)
def test_an_export_compares_every_result(name: str, tmp_path: Path) -> None:
    exported = flashir.export(flashir.loads(TWO), tmp_path, f"{name}:cpu")
    compared = "\n".join(exported.checks)
    assert "run, logits against" in compared and "run, hidden against" in compared


@pytest.mark.skipif(not at_hand("onnx"), reason="not installed")
def test_several_results_of_an_onnx_file_are_called_as_in_the_model(tmp_path: Path) -> None:
    import onnxruntime

    path = flashir.export(flashir.loads(TWO), tmp_path, "onnx:cpu").path
    session = onnxruntime.InferenceSession(str(path))
    assert [each.name for each in session.get_outputs()] == ["logits", "hidden"]
    assert [each.name for each in session.get_inputs()] == ["input_ids"]


@pytest.mark.skipif(not at_hand("onnx"), reason="not installed")
@pytest.mark.parametrize(("system", "size"), [("flash", "chunk"), ("performer", "tile")])
def test_no_tokens_give_no_logits_however_small_a_chunk_is(system: str, size: str) -> None:
    """ONNX Runtime fails on a loop over nothing."""
    model = flashir.model(system, size="tiny", vocab=61, cumsum="scan", **{size: 1})
    assert flashir.compile(model, "onnx:cpu")(np.zeros((2, 0), int)).shape == (2, 0, 61)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("parameter", ["0.in.weight", "class.x", "None", "in-", "a-b", "1"])
def test_parameters_may_be_called_whatever_text_allows(name: str, parameter: str, tmp_path: Path) -> None:
    b = flashir.Builder("named")
    model = b.finish(b.matmul(b.input("x", "f32[2, 4]"), b.param(name=parameter, shape=(4, 4), std=1.0)))
    params = flashir.init(model)
    assert np.allclose(flashir.compile(model, f"{name}:cpu", params)(ROWS), ROWS @ params[parameter], atol=1e-5)
    path = flashir.export(model, tmp_path, f"{name}:cpu", params).path
    backend = registry.backend(name)
    assert isinstance(backend, Exporter)
    assert list(backend.stored(path)[1]) == [parameter]


def test_a_head_with_parameters_of_its_own_is_continued() -> None:
    b = flashir.Builder("head")
    x = b.mhsa(b.embed(b.input("ids", "i32[B, T]"), vocab=61, dim=16), heads=2)
    model = b.finish(b.add(b.unembed(x), b.param(name="bias", shape=(61,), std=1.0, scope="head")))
    params = unit(model)
    decoder = flashir.decoder(model, max_len=16, params=params)
    (token,) = (row[0] for row in flashir.generate(decoder, [[1, 2, 3]], tokens=1, sampling=flashir.Sampling(0)))
    assert token == flashir.interpret(model, params, np.array([[1, 2, 3]]))[0][0, -1].argmax()
