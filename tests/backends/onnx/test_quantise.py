"""Narrow weights: how far off a number may be, what runs on them, and that models share them."""

from itertools import product

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import flashir
from flashir import Builder
from flashir.backends.decoding import decoding
from flashir.backends.lowering import Lowering
from flashir.errors import ParameterError, SettingError
from flashir.generation.host_interface import hosted
from flashir.reference.compare import relative_error
from flashir_onnx import quantise
from flashir_onnx.artefact import Part, write
from flashir_onnx.blocks import Blocks, unpacked
from flashir_onnx.decoder import parts
from flashir_onnx.emit import emit
from flashir_onnx.form import Form
from flashir_onnx.quantise import KINDS, quantiser
from flashir_onnx.session import Session
from flashir_onnx.verify import all_nodes
from flashir_onnx.weights import LARGE
from flashir_zoo.systems import SYSTEMS
from tests.backends.onnx.support import emitted, flash, lowered, tokens, unit
from tests.cover import in_turn

WIDE = {"d_model": 32, "depth": 2, "key_dim": 16, "vocab": 11}
FORMS = [("int8", True), ("int8", False), ("int4", True), ("float16", True)]
ERRORS = {"int8": 3e-2, "int4": 0.3, "float16": 2e-3}
SHARES = {"int8": 1 / 3, "int4": 0.3, "float16": 0.55}
matrices = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=40),
    elements=st.floats(-(2.0**99), 2.0**99, width=32) | st.floats(-1, 1, width=32),
)


@given(matrices)
def test_no_number_of_a_block_is_off_by_more_than_half_of_its_scale(matrix):
    made = Blocks.of(matrix)
    n, k = matrix.shape
    found = unpacked(made.stored, made.scales, 8)
    rows = found.reshape(n, -1)
    spread = np.broadcast_to(made.scales[..., None], found.shape).reshape(n, -1)[:, :k]
    assert (np.abs(rows[:, :k] - matrix) <= spread * 0.5001 + 1e-42).all()
    assert not rows[:, k:].any()


@given(matrices)
def test_blocks_of_4_bits_are_no_worse_than_with_the_scale_of_their_largest_weight(matrix):
    matrix = matrix / max(1, np.abs(matrix).max())
    made = Blocks.of(matrix, bits=4)
    n, k = matrix.shape
    assert made.stored.nbytes * 2 == made.block * made.scales.size
    padded = np.zeros((n, made.scales.shape[1] * made.block))
    padded[:, :k] = matrix
    error = np.square(unpacked(made.stored, made.scales, 4).reshape(n, -1) - padded).reshape(*made.scales.shape, -1)
    whole = np.abs(padded).reshape(error.shape).max(axis=-1, keepdims=True) / 7
    steps = np.divide(padded.reshape(error.shape), whole, out=np.zeros(error.shape), where=whole > 0)
    plain = np.square((np.rint(steps) - steps) * whole).sum(axis=-1)
    assert (error.sum(axis=-1) <= plain + 1e-5).all()


@given(matrices, st.sampled_from((0, 1)))
def test_no_number_of_a_column_is_off_by_more_than_half_of_its_scale(matrix, axis):
    whole, scales = quantise.columns(matrix, axis)
    spread = np.expand_dims(scales.astype(np.float64), 1 - axis)
    assert (np.abs(whole * spread - matrix) <= spread * 0.5001 + 1e-42).all()


@pytest.mark.parametrize(("k", "shape"), [(768, (6, 128)), (192, (3, 64)), (170, (3, 64)), (20, (1, 32)), (7, (1, 16))])
def test_blocks_are_as_long_as_takes_the_fewest_bytes(k, shape):
    made = Blocks.of(np.ones((3, k), np.float32))
    assert (made.stored.shape, made.scales.shape, made.k) == ((3, *shape), (3, shape[0]), k)


@in_turn(system=SYSTEMS, form=FORMS)
def test_every_system_computes_nearly_the_same_in_less_than_a_third_of_the_bytes(system, form):
    kind, runtime_ops = form
    chosen = flashir.plan(flashir.model(system, size="tiny"), "onnx:cpu", seq_len=256).graph
    whole = emitted(chosen, flashir.init(chosen, scheme="paper"))
    narrow = quantiser(kind, runtime_ops=runtime_ops)(whole)
    ids = [np.random.default_rng(0).integers(0, 256, (2, 70))]
    error = relative_error(Session(narrow)(ids), Session(whole)(ids))
    assert 0 < error < ERRORS[kind]
    assert narrow.weights.nbytes < whole.weights.nbytes * SHARES[kind]


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_a_portable_model_has_no_operators_of_one_runtime(kind):
    model = flash(**WIDE)
    graph = Lowering.of("onnx:cpu", portable=True).run(model)
    narrow = quantiser(kind, runtime_ops=False)(emit(graph, unit(model), form=Form(portable=True)))
    assert {each.domain for each in narrow.model.opset_import} == {""}


def test_a_portable_loop_leaves_weights_outside_where_all_are_narrow():
    """Inside, each step would copy them."""
    model = flash(**WIDE, cumsum="scan")
    graph = Lowering.of("onnx:cpu", portable=True).run(model)
    narrow = quantiser("int8", runtime_ops=False)(emit(graph, unit(model), form=Form(portable=True)))
    loops = [node for node in narrow.model.graph.node if node.op_type == "Scan"]
    assert loops and not {name for node in loops for name in node.input} & narrow.weights.initializers.keys()
    large = [array for array, _ in narrow.weights.initializers.values() if array.nbytes >= LARGE]
    assert large and {array.dtype for array in large} == {np.dtype(np.int8)}


def test_products_in_loops_are_of_whole_numbers_too():
    model = flash(**WIDE, cumsum="scan")
    narrow = quantiser("int8")(emitted(model, unit(model)))
    assert not [node for node in narrow.model.graph.node if node.op_type == "layer"]
    assert [node for node in narrow.model.graph.node if node.op_type == "Scan"]
    assert not [node for node in all_nodes(narrow.model) if node.op_type == "Gemm"]
    assert sum(node.op_type == "MatMulNBits" for node in all_nodes(narrow.model)) == 2 * 4 + 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_sees_nothing_of_later_ones_or_of_other_rows(kind):
    """As it would, were what comes in rounded by the largest number of all of it."""
    model = flash(**WIDE)
    run = Session(quantiser(kind)(emitted(model, unit(model))))
    (ids,) = tokens(model, 3, 14)
    other = ids.copy()
    other[1:], other[0, 9:] = (ids[1:] + 1) % 11, (ids[0, 9:] + 3) % 11
    assert relative_error(run([other])[0, :9], run([ids])[0, :9]) == 0


@pytest.mark.parametrize(("kind", "runtime_ops"), FORMS)
def test_no_tokens_and_no_rows_are_as_fine_as_some(kind, runtime_ops):
    model = flash(**WIDE)
    run = Session(quantiser(kind, runtime_ops=runtime_ops)(emitted(model, unit(model))))
    for batch, length in product((0, 2), (0, 1, 5)):
        assert run(tokens(model, batch, length)).shape == (batch, length, 11)


def test_a_table_that_is_read_by_rows_and_multiplied_is_there_once():
    model = flash(**WIDE)
    narrow = quantiser("int8")(emitted(model, unit(model)))
    names = [each.name for each in narrow.model.graph.initializer if each.name.startswith("embed.weight")]
    assert sorted(names) == ["embed.weight/blocks", "embed.weight/scales"]
    users = [node.op_type for node in narrow.model.graph.node if "embed.weight/blocks" in node.input]
    assert sorted(users) == ["MatMulNBits", "rows"]


@pytest.mark.parametrize(("kind", "runtime_ops"), FORMS)
def test_a_decoder_has_its_narrow_weights_once(kind, runtime_ops, tmp_path):
    model = flashir.model("transformer++", size="tiny")
    graphs = hosted(decoding(model, max_len=64))
    made = parts(lowered(model), graphs.lowered(Lowering.of("onnx:cpu")), flashir.init(model), {})
    narrow = quantiser(kind, runtime_ops=runtime_ops)
    write({name: Part(narrow(part.emitted), part.metadata) for name, part in made.items()}, tmp_path)
    (data,) = tmp_path.glob("model-*.data")
    floats = sum(4 * each.size for each in flashir.init(model).values())
    assert data.stat().st_size < floats * (0.6 if kind == "float16" else 0.4)
    for name in ("model.onnx", "prefill.onnx", "step.onnx"):
        Session(tmp_path / name)


def test_a_weight_that_is_used_in_another_way_stays_as_it_is():
    b = Builder("m")
    x = b.input("x", "f32[32, 32]")
    added, only = (b.param(name=name, shape=(32, 32), scope="") for name in ("added", "only"))
    model = b.finish(b.matmul(b.matmul(b.add(x, added), added), only))
    whole = emitted(model, unit(model))
    narrow = quantiser("int8")(whole)
    assert sorted(each.name for each in narrow.model.graph.initializer) == ["added", "only/blocks", "only/scales"]
    given = [np.eye(32, dtype=np.float32)]
    assert relative_error(Session(narrow)(given), Session(whole)(given)) < 3e-2


def test_a_model_without_a_matrix_is_refused():
    b = Builder("m")
    model = b.finish(b.relu(b.input("x", "f32[B, 32]")))
    with pytest.raises(SettingError, match="no matrix"):
        quantiser("int8")(emitted(model, {}))


def test_an_unknown_kind_is_refused_by_name():
    with pytest.raises(SettingError, match="int8, int4 or float16, got 'int3'"):
        quantiser("int3")
    with pytest.raises(SettingError, match=r"int4 needs operators of ONNX Runtime\n.*leave out portable"):
        quantiser("int4", runtime_ops=False)


def test_a_weight_too_large_for_float16_is_named():
    model = flash(**WIDE)
    params = {**unit(model), "embed.weight": np.full((11, 32), 1e5, np.float32)}
    with pytest.raises(ParameterError, match=r"embed.weight.*too large for float16"):
        quantiser("float16")(emitted(model, params)).weights.array("embed.weight/float16")


def test_the_narrow_model_is_one_that_the_tools_of_onnx_read():
    model = flash(**WIDE)
    for kind, runtime_ops in FORMS:
        made = quantiser(kind, runtime_ops=runtime_ops)(emitted(model, unit(model)))
        whole = made.weights.fill(made.model)
        onnx.checker.check_model(whole, full_check=True)
        onnx.shape_inference.infer_shapes(whole, check_type=True, strict_mode=True, data_prop=True)


def test_4_bits_leave_the_first_layer_and_tables_in_8():
    model = flashir.model("flash", d_model=32, depth=3, vocab=50, chunk=4, cumsum="matmul")
    lowered = Lowering.of("onnx:cpu").run(model)
    narrow = quantiser("int4")(emit(lowered, unit(model))).model
    bits = {
        node.input[1].removesuffix("/blocks"): next(each.i for each in node.attribute if each.name == "bits")
        for node in all_nodes(narrow)
        if node.op_type == "MatMulNBits"
    }
    assert set(bits.values()) == {4, 8}
    assert all((number == 8) == name.startswith(("embed.", "layers.0.")) for name, number in bits.items())
