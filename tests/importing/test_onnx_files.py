"""ONNX files of other exporters are raised to blocks, or refused with what is unknown and where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import flashir
from flashir.errors import ArtefactError, FlashirError, InputError
from tests.hostile.onnx_models import functions_in_a_circle, functions_that_double
from tests.importing import onnx_files
from tests.importing.onnx_files import saved
from tests.importing.support import FLASH, UNIT, VOCAB, drawn, flash_transformer

FAMILY = "flash-pytorch"
OPTIONS: dict[str, Any] = {
    "causal": True, "group_size": 5, "laplace_attn_fn": False, "shift_tokens": True,
    "reduce_group_non_causal_attn": True,
}  # fmt: skip


def case(norm: str, *flags: bool, slow: bool = False) -> Any:
    names = ("causal", "laplace_attn_fn", "shift_tokens", "reduce_group_non_causal_attn")
    options = OPTIONS | dict(zip(names, flags, strict=True))
    marks = [pytest.mark.slow] if slow else []
    return pytest.param(norm, options, id="-".join([norm, *(name for name in names if options[name])]), marks=marks)


CASES = [
    case("layer_norm", True, False, True, True),
    case("scale_norm", False, True, False, True),
    case("layer_norm", False, False, True, False),
    case("scale_norm", True, True, False, True, slow=True),
    case("scale_norm", False, False, False, False, slow=True),
    case("layer_norm", False, True, True, True, slow=True),
]


def same(converted: flashir.Converted, wanted: flashir.Converted, *inputs: Any) -> None:
    got, right = (flashir.interpret(each.model, each.params, *inputs)[0] for each in (converted, wanted))
    assert np.abs(got - right).max() <= 1e-6 * np.abs(right).max()


@pytest.mark.parametrize(("norm", "options"), CASES)
def test_a_transformer_is_raised_to_what_its_weights_are_imported_as(
    tmp_path: Path, norm: str, options: dict[str, Any]
) -> None:
    state = flash_transformer(norm=norm)
    path = saved(onnx_files.transformer(state, options), tmp_path / "m.onnx", outside=norm == "scale_norm")
    converted, wanted = flashir.convert(path), flashir.convert(state, verify="off", **options)
    assert converted.family == "onnx"
    assert converted.notes[0] == "recognised 2 flash layers"
    assert "off the file in ONNX Runtime" in converted.notes[-1]
    assert "times = 2" in flashir.dumps(converted.model)
    assert flashir.plan(converted.model, "onnx:cpu", params=converted.params).chunk == options["group_size"]
    same(converted, wanted, np.arange(19)[None] % VOCAB)


def test_what_a_file_of_one_chunk_leaves_open_is_said(tmp_path: Path) -> None:
    path = saved(onnx_files.transformer(flash_transformer(), OPTIONS, length=4), tmp_path / "m.onnx")
    assert "at length 4 the file has one chunk: how it would sum up several is assumed" in flashir.convert(path).notes


def test_a_file_of_one_length_becomes_a_model_of_all(tmp_path: Path) -> None:
    state = flash_transformer()
    path = saved(onnx_files.transformer(state, OPTIONS, length=13), tmp_path / "m.onnx")
    converted = flashir.convert(path)
    assert "the file itself runs only at length 13; the imported model runs at any" in converted.notes
    same(converted, flashir.convert(state, verify="off", **OPTIONS), np.arange(19)[None] % VOCAB)


@pytest.mark.parametrize(("rope", "more"), [(0, {}), (6, {"group_size": 1, "causal": False})])
def test_a_flash_layer_takes_features(tmp_path: Path, rope: int, more: dict[str, Any]) -> None:
    state = drawn(FAMILY, "FLASH", {**FLASH, "rope_dims": rope, "query_key_dim": 7})
    path = saved(onnx_files.layer(onnx_files.flash, state, OPTIONS | more), tmp_path / "m.onnx")
    wanted = flashir.convert(state, verify="off", **OPTIONS | more)
    same(flashir.convert(path), wanted, np.random.default_rng(0).standard_normal((1, 19, 16)))


def test_a_gau_layer_of_any_length_is_raised(tmp_path: Path) -> None:
    state = drawn(FAMILY, "GAU", UNIT)
    state["rel_pos_bias.relative_attention_bias.weight"] *= 0
    options = {"causal": True, "add_residual": True, "laplace_attn_fn": False}
    whole = onnx_files.layer(onnx_files.gau, state, options | {"n": None})
    converted = flashir.convert(saved(whole, tmp_path / "m.onnx"))
    wanted = flashir.convert(state, verify="off", **options)
    same(converted, wanted, np.random.default_rng(0).standard_normal((1, 19, 16)))


@pytest.mark.parametrize(("causal", "residual"), [(True, True), (False, False)])
def test_a_gau_layer_is_raised(tmp_path: Path, causal: bool, residual: bool) -> None:
    state = drawn(FAMILY, "GAU", UNIT)
    options = {"causal": causal, "add_residual": residual, "laplace_attn_fn": not causal}
    whole = onnx_files.layer(onnx_files.gau, state, options | {"n": 150}, length=150)
    converted = flashir.convert(saved(whole, tmp_path / "m.onnx"))
    wanted = flashir.convert(state, verify="off", **options)
    same(converted, wanted, np.random.default_rng(0).standard_normal((1, 140, 16)))
    short = onnx_files.layer(onnx_files.gau, state, options | {"n": 9}, length=9)
    notes = flashir.convert(saved(short, tmp_path / "short.onnx")).notes
    assert any("buckets of the relative bias, of distances from 9 on, are not in the file" in note for note in notes)


def paper_layer() -> tuple[flashir.Graph, dict[str, Any]]:
    b = flashir.Builder("paper")
    x = b.input("x", "f32[B, T, 8]")
    model = b.finish(b.flash(x, key_dim=4, chunk=20, rope_dims=0, lin_norm="none", expansion=1))
    random = np.random.default_rng(0)
    params = {name: random.standard_normal(array.shape) * 0.5 for name, array in flashir.init(model).items()}
    return model, {name: np.asarray(array, np.float32) for name, array in params.items()}


def test_other_spellings_are_the_same_layer(tmp_path: Path) -> None:
    model, params = paper_layer()
    own = {name.removeprefix("layers.0."): array for name, array in params.items()}
    own["to_out.bias"] = own["proj_out.bias"]
    path = saved(onnx_files.layer(onnx_files.paper, own, {"chunk": 20}), tmp_path / "m.onnx")
    converted = flashir.convert(path)
    assert converted.params.keys() == params.keys()
    x = np.random.default_rng(0).standard_normal((1, 47, 8))
    got, wanted = (flashir.interpret(*each, x)[0] for each in ((converted.model, converted.params), (model, params)))
    np.testing.assert_allclose(got, wanted, atol=1e-6 * np.abs(wanted).max())
    assert any("not at lengths 1, 19, 21, 47" in note for note in converted.notes)


def edited(model: onnx.ModelProto, kind: str, change: Callable[[onnx.NodeProto], None]) -> onnx.ModelProto:
    """The model with the first node of that operator changed."""
    change(next(node for node in model.graph.node if node.op_type == kind))
    return model


def alone(kind: str) -> Callable[[onnx.NodeProto], None]:
    """Another operator, of the first operand alone."""

    def change(node: onnx.NodeProto) -> None:
        node.op_type = kind
        del node.input[1:], node.attribute[:]

    return change


def renamed(kind: str) -> Callable[[onnx.NodeProto], None]:
    return lambda node: setattr(node, "op_type", kind)


UNKNOWN: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "operator": (lambda m: edited(m, "Sigmoid", renamed("Sinh")), "Sinh at 'Sigmoid_.*' is no part of a flash or gau"),
    "gate": (lambda m: edited(m, "Sigmoid", renamed("Tanh")), "layer 0: the product 'v.*: its values are not silu of"),
    "kernel": (lambda m: edited(m, "Relu", renamed("Abs")), "layer 0: the function of the scores between 'v.*' and 'v"),
    "positions": (lambda m: edited(m, "Cos", renamed("Sin")), "the sum 'v.*: it adds other positions than scaled"),
    "sum": (lambda m: edited(m, "CumSum", alone("Identity")), "layer 0: the sum of states between 'v.*' and 'v"),
    "norm": (lambda m: edited(m, "LayerNormalization", alone("Softmax")), "layer 0: the norm between 'v.*' and 'v"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_is_unknown_is_named_with_its_place(tmp_path: Path, kind: str) -> None:
    model = onnx_files.transformer(flash_transformer(norm="layer_norm"), OPTIONS)
    UNKNOWN[kind][0](model)
    path = saved(model, tmp_path / "m.onnx")
    with pytest.raises(ArtefactError, match=UNKNOWN[kind][1]) as caught:
        flashir.convert(path)
    assert str(path) in caught.value.message and caught.value.hint


def test_a_transformer_with_softmax_is_no_gated_layer(tmp_path: Path) -> None:
    w = onnx_files.Writer()
    q, k, v = (w.op("MatMul", "x", np.eye(4)) for _ in range(3))
    weights = w.op("Softmax", w.op("MatMul", q, w.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    path = saved(w.model("x", w.op("MatMul", weights, v), ["b", "n", 4], False), tmp_path / "m.onnx")
    with pytest.raises(ArtefactError, match=r"the multiplications v\d.*, v\d.* are those of no flash or gau layer"):
        flashir.convert(path)


def external(model: onnx.ModelProto, **fields: str) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    size = str(int(np.prod(tensor.dims)) * 4)
    for key, value in {"location": "m.onnx.data", "offset": "0", "length": size, **fields}.items():
        tensor.external_data.add(key=key, value=value)


def shaped(model: onnx.ModelProto, *dims: int) -> None:
    model.graph.initializer[0].dims[:] = dims


def looped(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body))


def absurd(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([10**12]), "far"))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["far"], ["huge"]))


def growing(model: onnx.ModelProto) -> None:
    """10 GB for 37 tokens, and 4 GiB are allowed."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**13]), "factor"))
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Mul", ["sizes", "factor"], ["far"]),
        helper.make_node("ConstantOfShape", ["far"], ["huge"]),
    ]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)


HOSTILE: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "another folder": (lambda m: external(m, location="../secret"), "'../secret', which is not a file next to the"),
    "an absolute path": (lambda m: external(m, location="/etc/passwd"), "which is not a file next to the model"),
    "no such file": (lambda m: external(m, location="none.data"), "No such file"),
    "a bad offset": (lambda m: external(m, offset="-4"), "offset '-4'"),
    "a far offset": (lambda m: external(m, offset="99999"), r"it ends at byte .*, which has 4,096"),
    "a bad length": (lambda m: external(m, length="9"), "length '9', its shape needs"),
    "a link": (lambda m: external(m, location="link.data"), "'link.data' is a link to another folder"),
    "a large shape": (lambda m: shaped(m, 10**6, 10**6), "has an absurd shape"),
    "a negative shape": (lambda m: shaped(m, -1, 16), "has an absurd shape"),
    "another shape": (lambda m: shaped(m, 14, 16), "cannot be read"),
    "a large value": (absurd, "'huge' has an absurd shape"),
    "a value that grows": (growing, "ONNX Runtime does not run it at lengths 37"),
    "control flow": (looped, "If at 'z' is control flow"),
    "another domain": (
        lambda m: edited(m, "Relu", lambda node: setattr(node, "domain", "evil")),
        "evil.Relu at .* is no operator of ONNX",
    ),
    "a cycle": (
        lambda m: edited(m, "Relu", lambda node: node.input.__setitem__(0, "y")),
        "Relu at .* reads 'y', which is not computed before",
    ),
    "a second input": (
        lambda m: m.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.BOOL, ["b", "n"])),
        "it has 2 inputs",
    ),
    "doubles": (lambda m: setattr(m.graph.initializer[0], "data_type", TensorProto.DOUBLE), "holds double, wanted"),
    "functions that double": (functions_that_double, r"its functions stand for 1,152,921,504,[0-9,]+ nodes, more"),
    "functions in a circle": (functions_in_a_circle, "its functions cannot be inlined: it is nested too deeply"),
    "no nodes": (lambda m: m.graph.ClearField("node"), "its output does not depend on its input"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_before_they_run(tmp_path: Path, kind: str) -> None:
    model = onnx_files.transformer(flash_transformer(), OPTIONS)
    HOSTILE[kind][0](model)
    folder = tmp_path / "models"
    folder.mkdir()
    for place in (folder / "m.onnx.data", tmp_path / "secret"):
        place.write_bytes(bytes(4096))
    (folder / "link.data").symlink_to(tmp_path / "secret")
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtefactError, match=HOSTILE[kind][1]) as caught:
        flashir.convert(folder / "m.onnx")
    assert Path(caught.value.where).parent == folder


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_flipped_bits_are_an_error_or_change_nothing(tmp_path: Path, seed: int) -> None:
    """A file has no digest, so that a flipped weight is another model; the model then is that of the file."""
    content = onnx_files.transformer(flash_transformer(depth=1), OPTIONS).SerializeToString()
    random = np.random.default_rng(seed)
    for number in range(6):
        flipped = bytearray(content)
        flipped[random.integers(len(flipped))] ^= 1 << int(random.integers(8))
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(flipped)
        assert outcome(path) in (str(path), "verified")


def outcome(path: Path) -> str:
    try:
        notes = flashir.convert(path).notes
    except FlashirError as error:
        return str(path) if str(path) in error.message else error.message
    return "verified" if "off the file in ONNX Runtime" in notes[-1] else notes[-1]


def test_nothing_to_import_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file of tensors"):
        flashir.convert(tmp_path)
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ArtefactError, match="it has 0 inputs, wanted one"):
        flashir.convert(tmp_path / "empty.onnx")
