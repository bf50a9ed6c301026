"""Weights in 8 or 4 bits: that kernels take them as they are, and that they come back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.backends.registry import backend
from flashir.errors import SettingError
from flashir.exporting.quantise import rows_of
from flashir.models.parameters import unit
from flashir.reference.compare import relative_error
from flashir_openvino import runtime
from flashir_openvino.narrow_weights import Matrix, _in_blocks, blocks_as_floats, floats_of
from tests.backends.support import flash, tokens

TARGET = "openvino:cpu"
ROWS = rows_of(np.random.default_rng(0).integers(0, 11, (2, 20)))
"""A text to measure on, which takes less time than one that a model writes."""


@pytest.mark.parametrize(("kind", "product", "lookup"), [("int8", "i8", "i8"), ("int4", "i4", "i8")])
def test_products_and_lookups_read_narrow_weights_as_they_are(
    tmp_path: Path, kind: str, product: str, lookup: str
) -> None:
    """Also the table that is looked up and multiplied with, which has 8 bits, as the first layer."""
    model = flashir.model("flash", d_model=128, depth=2, vocab=50, chunk=8, cumsum="matmul")
    made = flashir.export(model, tmp_path, TARGET, unit(model), quantize=kind, text=ROWS, tolerance=10.0)
    compiled: Any = runtime.core().compile_model(str(made.path), "CPU")
    types: Counter[tuple[str, str]] = Counter()
    for op in compiled.get_runtime_model().get_ops():
        sources = [port.get_source_output().get_node().rt_info["outputPrecisions"].astype(str) for port in op.inputs()]
        kernel = op.rt_info["layerType"].astype(str)
        types.update((kernel, source) for source in sources if source in ("i4", "i8"))
    in_8_bits = Counter({("FullyConnected", lookup): 3, ("Gather", lookup): 1})
    assert types == Counter({("FullyConnected", product): 2}) + in_8_bits


@pytest.mark.parametrize(("length", "bits", "block"), [(256, 4, 128), (192, 4, 64), (24, 4, 24), (25, 4, 25)])
@pytest.mark.parametrize("is_table", [False, True])
def test_a_weight_of_any_width_comes_back(length: int, bits: int, block: int, is_table: bool) -> None:
    from openvino import Model

    rows = np.random.default_rng(0).standard_normal((6, length)).astype(np.float32)
    blocks = _in_blocks(rows, bits)
    assert blocks.block == block
    model = Model([blocks_as_floats("w", Matrix(blocks, is_table))], [])
    wanted = floats_of(model)["w"]
    assert (
        np.abs((wanted if is_table else wanted.T) - rows).max()
        <= (0.31 if blocks.bits == 4 else 0.01) * np.abs(rows).max()
    )
    assert np.array_equal(runtime.core().compile_model(model, "CPU")({})[0], wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "error", "stored_error", "saved"),
    [("int8", 3e-2, 3e-2, 0.7), ("int4", 4e-1, 3e-2, 0.75), ("float16", 2e-3, 1e-4, 0.4)],
)
def test_quantised_weights_are_smaller_and_come_back(
    tmp_path: Path, kind: str, error: float, stored_error: float, saved: float
) -> None:
    """OpenVINO rounds the rows of products with narrow weights too, so the float model of those differs a little."""
    model = flashir.model("flash", d_model=256, depth=2, vocab=11, chunk=8, cumsum="matmul")
    params, ids = unit(model), tokens(model, 2, 20)
    whole = flashir.export(model, tmp_path / "whole", TARGET, params)
    narrow = flashir.export(model, tmp_path / "narrow", TARGET, params, quantize=kind, text=ROWS, tolerance=10.0)
    _, run = backend("openvino").load(narrow.path, "cpu")  # type: ignore[attr-defined]
    _, stored = backend("openvino").stored(narrow.path)  # type: ignore[attr-defined]
    got = run(ids)
    assert 0 < relative_error(got, flashir.interpret(model, params, *ids)[0]) < error
    assert relative_error(got, flashir.interpret(model, stored, *ids)[0]) < stored_error
    sizes = [exported.path.with_suffix(".bin").stat().st_size for exported in (whole, narrow)]
    assert sizes[0] - sizes[1] > saved * sum(array.nbytes for array in params.values())


def test_other_types_and_models_without_a_matrix_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="quantised to int8, int4 or float16, got 'int2'"):
        backend("openvino").quantised("int2")  # type: ignore[attr-defined]
    with pytest.raises(SettingError, match="no matrix that could be quantised"):
        flashir.export(flash(d_model=4, key_dim=2), tmp_path, TARGET, quantize="int8", tolerance=10.0)
