"""Sessions: what they convert, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashir.errors import FlashirError, InputError, ParameterError, TargetError
from flashir_onnx import OnnxBackend
from flashir_onnx.session import Session
from tests.backends.onnx.support import flash, lowered, unit

BACKEND = OnnxBackend()


def test_numbers_too_large_for_float16_are_named() -> None:
    model = flash(dtype="float16")
    params = unit(model)
    params["layers.1.proj_out.weight"][0, 0] = 1e6
    with pytest.raises(ParameterError, match=r"layers\.1\.proj_out\.weight.*1e\+06.*float16"):
        BACKEND.compile(lowered(model), params, "cpu")


def test_inputs_are_converted_where_that_is_safe() -> None:
    model = flash()
    run = BACKEND.compile(lowered(model), unit(model), "cpu")
    ids = np.array([[1, 2, 3]])
    for same in (ids.astype(np.int32), ids.astype(np.uint8), ids.tolist(), np.asfortranarray(ids)):
        assert np.array_equal(run([same]), run([ids]))  # type: ignore[list-item]
    for wrong in (ids + 0.5, np.array([["a"]])):
        with pytest.raises(InputError, match="input_ids must hold int64 numbers"):
            run([wrong])


@pytest.mark.parametrize("arrays", [[], [np.ones((1, 3), int)] * 2, [np.ones(3, int)], [np.full((1, 3), 99)]])
def test_bad_inputs_are_typed_errors(arrays: list[Any]) -> None:
    model = flash()
    run = BACKEND.compile(lowered(model), unit(model), "cpu")
    with pytest.raises(FlashirError):
        run(arrays)


def test_devices_that_are_not_here() -> None:
    model = flash()
    with pytest.raises(TargetError, match="no device 'abacus'"):
        BACKEND.compile(lowered(model), unit(model), "abacus")
    assert "cpu" in BACKEND.devices()


def test_a_model_that_onnx_runtime_refuses(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"this is no model")
    with pytest.raises(TargetError, match="does not load the model"):
        Session(path)
