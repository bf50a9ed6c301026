"""Forms of a model: portable, of any opset, with int32 ids, of a fixed shape. The results are the same in each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, GraphProto, NodeProto
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator

import flashir
from flashir.backends.lowering import Lowering
from flashir.backends.registry import backend
from flashir.errors import SettingError, TargetError
from flashir.ir import Graph
from flashir_onnx import OnnxBackend
from flashir_onnx.emit import Emitted, emit
from flashir_onnx.form import OLDEST, Form
from flashir_onnx.session import Session
from flashir_onnx.verify import all_nodes
from tests.backends.onnx.support import TOLERANCE, flash, relative_error, tokens, unit
from tests.backends.onnx.test_systems import every_system_in_turn, settings
from tests.cover import in_turn
from tests.decode.support import ROOM, ZOO
from tests.decode.support import model as small

NEWEST = onnx.defs.onnx_opset_version()


def written(model: Graph, **chosen: Any) -> Emitted:
    """A model in a form."""
    chosen_form = Form(**chosen)
    own = OnnxBackend(form=chosen_form)
    return emit(Lowering("onnx:cpu", own.claims, own.passes()).run(model), unit(model), form=chosen_form)


def captured(graph: GraphProto) -> Iterator[str]:
    """The values that loops and branches read from the graph around them."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                body = attribute.g
                own = {value.name for value in body.input} | {name for inner in body.node for name in inner.output}
                yield from (name for name in _read(body.node) if name not in own)
                yield from captured(body)


def _read(nodes: Iterable[NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from filter(None, node.input)


@every_system_in_turn
def test_a_portable_model_is_read_by_the_reference_of_onnx(name: str, task: str) -> None:
    """It has no functions, no captured values and no operators of one runtime."""
    model = flashir.model(name, **settings(name, task=task))
    whole = written(model, portable=True)
    filled = whole.weights.fill(whole.model)
    assert not filled.functions and not list(captured(filled.graph))
    assert {node.domain for node in all_nodes(filled)} == {""}
    arrays = tokens(model, 2, 9)
    feed = dict(zip((value.name for value in filled.graph.input), (np.int64(array) for array in arrays), strict=True))
    (got,) = ReferenceEvaluator(filled).run(None, feed)
    assert relative_error(got, flashir.interpret(model, unit(model), *arrays)[0]) < TOLERANCE


def test_a_portable_loop_gets_what_it_reads_as_inputs() -> None:
    model = flash(cumsum="scan")
    portable, own = written(model, portable=True), written(model)
    assert [node.op_type for node in portable.model.graph.node].count("Scan") == 2
    assert not list(captured(portable.model.graph))
    assert list(captured(inline_local_functions(own.model).graph))
    for length in (0, 1, 4, 9):
        arrays = tokens(model, 2, length)
        wanted = flashir.interpret(model, unit(model), *arrays)[0]
        assert relative_error(Session(portable, threads=1)(arrays), wanted) < TOLERANCE, length


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("name", [*ZOO][:1] + [pytest.param(each, marks=pytest.mark.slow) for each in [*ZOO][1:]])
def test_portable_decoders_capture_nothing(tmp_path: Path, name: str, split: bool) -> None:
    """And have no functions, and no operators of one runtime."""
    flashir.export(small(name), tmp_path, decode=True, split=split, max_len=ROOM, portable=True)
    files = {path.name: onnx.load(path, load_external_data=False) for path in tmp_path.glob("*.onnx")}
    assert len(files) == (3 if split else 2)
    for file, found in files.items():
        assert not list(captured(found.graph)), file
        assert not found.functions, file
        assert {node.domain for node in all_nodes(found)} == {""}, file


@in_turn(opset=(OLDEST + 1, 23, NEWEST), portable=(True, False))
def test_every_opset_computes_the_same(opset: int, portable: bool) -> None:
    model = flashir.model("combiner", **settings("combiner", task="lm"))
    whole = written(model, opset=opset, portable=portable)
    onnx.checker.check_model(whole.weights.fill(whole.model), full_check=True)
    assert {each.version for each in whole.model.opset_import if not each.domain} == {opset}
    turned = [node.domain for node in all_nodes(whole.model) if node.op_type == "RotaryEmbedding"]
    assert set(turned) == (set() if portable and opset < 23 else {"" if portable else "com.microsoft"})
    arrays = tokens(model, 2, 9)
    wanted = flashir.interpret(model, unit(model), *arrays)[0]
    assert relative_error(Session(whole, threads=1)(arrays), wanted) < TOLERANCE


def test_rows_with_positions_of_their_own_are_turned_by_the_standard_operator_too() -> None:
    model = flash(segments="token", cumsum="native")
    arrays = tokens(model, 2, 9)
    wanted = flashir.interpret(model, unit(model), *arrays)[0]
    whole = written(model, opset=23, portable=True)
    assert relative_error(Session(whole, threads=1)(arrays), wanted) < TOLERANCE


def test_an_export_has_the_opset_the_ids_and_the_shape_that_are_asked_for(tmp_path: Path) -> None:
    model = flashir.model("flash", size="tiny", segments=True)
    made = flashir.export(
        model, tmp_path, chunk=16, opset=19, ids="int32", static=True, batch=2, seq_len=33, portable=True
    )
    found = onnx.load(made.path)
    assert found.producer_name == "flashir" and found.producer_version == flashir.__version__
    for value in found.graph.input:
        held = value.type.tensor_type
        assert held.elem_type == onnx.TensorProto.INT32
        assert [size.dim_value for size in held.shape.dim] == [2, 33]
        assert value.doc_string
    assert not [node for node in all_nodes(found) if node.op_type == "Shape"]
    loaded, run = backend("onnx").load(made.path, "cpu")
    ids = np.random.default_rng(0).integers(0, 256, (2, 33))
    segments = np.zeros_like(ids)
    wanted = flashir.interpret(loaded, flashir.init(loaded), ids, segments)[0]
    assert relative_error(run([ids, segments]), wanted) < TOLERANCE


def test_a_decoder_may_have_another_opset_and_narrow_ids(tmp_path: Path) -> None:
    model = flashir.model("flash", size="tiny")
    flashir.export(model, tmp_path, chunk=16, opset=23, ids="int32", decode=True, portable=True)
    for path in tmp_path.glob("*.onnx"):
        found = onnx.load(path, load_external_data=False)
        assert not list(captured(found.graph)) and not found.functions
        assert found.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT32
        assert {each.version for each in found.opset_import} == {23}


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"opset": 16}, "17 or more, got 16: 17 brought LayerNormalization"),
        ({"opset": NEWEST + 1}, f"at most {NEWEST}, the newest of the installed onnx"),
        ({"ids": "int8"}, "int64 or int32, got 'int8'"),
        ({"static": True, "decode": True}, "no fixed sizes"),
    ],
)
def test_a_form_that_does_not_exist_is_refused(tmp_path: Path, chosen: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        flashir.export(flashir.model("flash", size="tiny"), tmp_path, chunk=16, **chosen)
    assert not list(tmp_path.iterdir())


def test_an_opset_is_refused_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="have no opset"):
        flashir.export(flashir.model("flash", size="tiny"), tmp_path, "torch:cpu", chunk=16, opset=20)
