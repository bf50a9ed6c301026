"""The measurement of decoders in OpenVINO: what it multiplies are the matrices of the model."""

from __future__ import annotations

from pathlib import Path

import pytest

import flashir
from flashir.machine.targets import target

pytest.importorskip("openvino")

from flashir_openvino.experiments.decode import measure


def test_the_products_read_every_matrix_of_a_model_once(tmp_path: Path) -> None:
    model = flashir.model("flash", size="tiny", chunk=16)
    params = flashir.init(model)
    flashir.export(model, tmp_path, target="openvino:cpu", params=params, decode=True)
    rows = measure([tmp_path], [8, 40], "f32", rounds=2)
    matrices = [array for name, array in params.items() if "proj" in name and array.ndim == 2] + [
        params["embed.weight"]
    ]
    read = 4 * sum(array.size for array in matrices)
    assert [row.position for row in rows] == [8, 40]
    for row in rows:
        assert row.floor_ms * target("onnx:cpu").bandwidth / 1e3 == pytest.approx(read, abs=64)  # and a few sizes
        assert min(row.ms, row.products_ms) > 0
