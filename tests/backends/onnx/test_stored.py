"""The parameters in an artefact are read back whole, whatever system, element type and form of weights it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import flashir
from flashir.backends.lowering import Lowering
from flashir.backends.protocols import MODEL_TEXT
from flashir.errors import SettingError
from flashir.ir import Graph
from flashir.models.parameters import Params, checked, unit
from flashir_onnx import seal
from flashir_onnx.emit import emit
from flashir_onnx.form import Form
from flashir_onnx.quantise import quantiser
from flashir_onnx.stored import stored
from tests.cover import in_turn
from tests.decode.support import ZOO

SQUARE: dict[str, Any] = {"d_model": 32, "depth": 2, "vocab": 32, "chunk": 16, "key_dim": 32, "expansion": 1}
SYSTEMS = {
    **ZOO,
    "summaries": ("flash", {**SQUARE, "summaries": "attend"}),
    "long-bias": ("flash", {**SQUARE, "chunk": 512}),
    "square": ("flash", SQUARE),
    "square-untied": ("flash", {**SQUARE, "tied": False}),
    "wide": ("transformer", {"d_model": 32, "depth": 2, "vocab": 300, "heads": 2, "max_len": 32}),
}
FORMS = [
    ("float32", None),
    ("float16", None),
    ("float32", "float16"),
    ("float32", "int8"),
    ("float32", "int8 portable"),
]
OFF = {None: 0.0, "float16": 2**-11, "int8": 1 / 127}
"""By how much a parameter may be off that was written so, relative to the largest number of it."""


def written(path: Path, model: Graph, params: Params, kind: str | None, *, portable: bool) -> Path:
    """An artefact as the backend emits it, without the checks of `export`."""
    emitted = emit(Lowering.of("onnx:cpu", portable=portable).run(model), params, form=Form(portable=portable))
    if kind is not None:
        emitted = quantiser(kind, runtime_ops=not portable)(emitted)
    whole = emitted.weights.fill(emitted.model)
    path.write_bytes(seal.sealed(whole, {MODEL_TEXT: flashir.dumps(model)})[0])
    return path


@in_turn(name=SYSTEMS, form=FORMS)
def test_every_parameter_is_read_back(name: str, form: tuple[str, str | None], tmp_path: Path) -> None:
    system, settings = SYSTEMS[name]
    dtype, weights = form
    model = flashir.plan(flashir.model(system, **settings), dtype=dtype, seq_len=32).graph
    params = checked(model, unit(model))
    kind, portable = (None, False) if weights is None else (weights.split()[0], "portable" in weights)
    try:
        path = written(tmp_path / "model.onnx", model, params, kind, portable=portable)
    except SettingError as error:
        pytest.skip(str(error))  # it is too small to have a matrix that is quantised
    graph, found = stored(path)
    assert graph == model and list(found) == list(params)
    limit = OFF[kind] if dtype == "float32" else OFF["float16"]
    for each, wanted in params.items():
        assert found[each].dtype == np.float32 and found[each].shape == wanted.shape
        assert np.abs(found[each] - wanted).max() <= limit * np.abs(wanted).max(), each
    if kind == "int8":
        assert any(tensor.data_type != onnx.TensorProto.FLOAT for tensor in onnx.load(path).graph.initializer)
