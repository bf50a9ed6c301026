"""Exported models come back as their text and their parameters, whatever wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest

import flashir
from flashir.errors import ArtefactError, FlashirError, InputError, SettingError
from flashir.exporting.quantise import rows_of
from flashir.files.foreign import read_bytes

ROUNDED = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
KEEPS = ("jax:cpu",)
"""Targets whose artefacts hold float32 weights, whatever they compute in."""


def small(**settings: Any) -> flashir.Graph:
    return flashir.model("flash", size="tiny", d_model=16, depth=2, key_dim=16, vocab=11, chunk=4, **settings)


def exported(folder: Path, target: str = "onnx:cpu", **options: Any) -> tuple[flashir.Exported, dict[str, Any]]:
    model = small()
    params = flashir.init(model, seed=3)
    return flashir.export(model, folder, target, params, seq_len=16, **options), params


def slow(target: str, dtype: str) -> Any:
    return pytest.param(target, dtype, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("target", "dtype"),
    [
        *(("onnx:cpu", "float32"), ("onnx:cpu", "float16")),
        *(slow(target, dtype) for target in ("torch:cpu", "jax:cpu") for dtype in ("float32", "float16", "bfloat16")),
    ],
)
def test_an_artefact_comes_back_exactly(tmp_path: Path, target: str, dtype: str) -> None:
    made, params = exported(tmp_path / "out", target, dtype=dtype)
    wide = dtype == "float32" or target in KEEPS
    for source in (tmp_path / "out", made.path):
        converted = flashir.convert(source)
        assert flashir.dumps(converted.model) == flashir.dumps(made.plan.graph)
        assert converted.params.keys() == params.keys()
        for name, array in params.items():
            narrow = not wide and array.ndim == 2
            stored = array.astype(ROUNDED[dtype]).astype(np.float32) if narrow else array
            if wide or narrow:
                np.testing.assert_array_equal(converted.params[name], stored)
        assert any("the float32 weights are not in it" in note for note in converted.notes) == (not wide)


def test_narrow_weights_come_back_as_what_they_stand_for(tmp_path: Path) -> None:
    made, params = exported(
        tmp_path / "out", quantize="int8", portable=True, tolerance=1.0, text=rows_of(np.arange(20)[None] % 11)
    )
    converted = flashir.convert(tmp_path / "out")
    assert any("its weights are int8" in note and "before rounding" in note for note in converted.notes)
    assert any(np.any(converted.params[name] != array) for name, array in params.items())
    ids = np.arange(10)[None]
    wanted = flashir.interpret(converted.model, converted.params, ids)[0]
    options = ort.SessionOptions()
    options.graph_optimization_level = (
        ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    )  # fused kernels also round activations
    (logits,) = ort.InferenceSession(made.path, options).run(None, {"input_ids": ids})
    assert np.abs(logits - wanted).max() <= 1e-6 * np.abs(wanted).max()


def test_the_chunk_of_what_comes_back_is_locked(tmp_path: Path) -> None:
    exported(tmp_path / "out")
    converted = flashir.convert(tmp_path / "out")
    with pytest.raises(SettingError, match="chunk"):
        flashir.plan(converted.model, "onnx:cpu", params=converted.params, chunk=8)


def flipped(path: Path) -> None:
    content = bytearray(read_bytes(path, ArtefactError))
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": flipped,
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\x08\x07" * 100),
    "text": lambda path: path.write_text("model @m() {}"),
}


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    made, _ = exported(tmp_path_factory.mktemp("artefact"))
    return made.path.read_bytes()


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_an_error_that_names_the_file(tmp_path: Path, artefact: bytes, kind: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(artefact)
    DAMAGE[kind](path)
    for source in (path, tmp_path):
        with pytest.raises(ArtefactError) as caught:
            flashir.convert(source)
        assert str(path) in caught.value.message


def test_what_the_file_says_cannot_be_set(tmp_path: Path, artefact: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(artefact)
    told = "causal, prefix, verify = 'package' cannot be set: the file holds the whole model"
    with pytest.raises(SettingError, match=told):
        flashir.convert(tmp_path, prefix="net.", verify="package", causal=True)
    with pytest.raises(InputError, match="this is not an exported model of flashir"):
        flashir.convert(tmp_path / "m.safetensors", family="artefact")


@pytest.mark.parametrize("host", [None, "hub"])
def test_labels_and_parameters_come_back(tmp_path: Path, host: str | None) -> None:
    model = small(predict="tags", labels=2)
    params = flashir.init(model, seed=3)
    made = flashir.export(model, tmp_path / "out", params=params, seq_len=16, host=host, labels=("noun", "verb"))
    converted = flashir.convert(tmp_path / "out")
    assert converted.family == (host or "artefact")
    assert flashir.dumps(converted.model) == flashir.dumps(made.plan.graph)
    for name, array in params.items():
        np.testing.assert_array_equal(converted.params[name], array)
    assert flashir.load_checkpoint(converted.save(tmp_path / "saved")).labels == ("noun", "verb")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ir": None}, "no text of a model"),
        ({"ir": "model"}, "config.json"),
        ({"id2label": {"1": "noun"}}, "id2label must name the scores"),
        ({"id2label": ["noun"]}, "id2label must name the scores"),
    ],
)
def test_a_folder_for_the_hub_that_was_edited_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    model = small()
    config = flashir.export(model, tmp_path / "out", seq_len=16, host="hub").path.with_name("config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(FlashirError, match=said):
        flashir.convert(tmp_path / "out")
