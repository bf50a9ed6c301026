"""Models from strangers: what is verified is what a runtime reads, or they are refused by their name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

import flashir
from flashir.errors import ArtefactError
from flashir_onnx import OnnxBackend
from flashir_onnx.artefact import PARTS
from flashir_onnx.seal import DIGEST, Reader, parsed_file, properties
from tests.hostile.onnx_models import CHANGES, resealed


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder, whose weights are beside it; tests copy it."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    model = flashir.model("flash", d_model=16, depth=1, vocab=64, key_dim=8, chunk=8, cumsum="matmul")
    flashir.export(model, folder, target="onnx:cpu", params=flashir.init(model), decode=True)
    return folder


@pytest.mark.parametrize("name", CHANGES)
def test_no_weight_lies_elsewhere(name: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    path = tmp_path / "out" / "model.onnx"
    Reader().metadata(path)
    if name == "metadata twice":
        content = onnx.load(path, load_external_data=False)
        CHANGES[name](content)
        path.write_bytes(content.SerializeToString())
    else:
        resealed(path, CHANGES[name])
    for read in (OnnxBackend().metadata, lambda path: OnnxBackend().load(path, "cpu"), OnnxBackend().stored):
        with pytest.raises(ArtefactError) as caught:
            read(path)
        assert caught.value.where == str(path)


@pytest.mark.parametrize("parts", ["[]", "3", "[" * 100_000, '{"a": {}}', '{"../x.onnx": "0"}', '{"/etc/x": "0"}'])
def test_parts_are_those_of_a_decoder(parts: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    path = tmp_path / "out" / "model.onnx"

    def change(model: onnx.ModelProto) -> None:
        next(each for each in model.metadata_props if each.key == PARTS).value = parts

    resealed(path, change)
    with pytest.raises(ArtefactError) as caught:
        OnnxBackend().load_decoder(path.parent, "cpu")
    assert caught.value.where == str(path)


def _another_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, ["batch", 3]))


CHANGED = {
    "another input": _another_input,
    "a state less": lambda model: model.graph.output.pop(),
    "other states": lambda model: model.graph.output.insert(1, model.graph.output.pop()),
    "a limit that is none": lambda model: model.metadata_props.add(key="flashir.max_len", value="x"),
    "a limit of many digits": lambda model: model.metadata_props.add(key="flashir.max_len", value="9" * 5000),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_a_decoder_returns_the_states_that_it_takes(kind: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    path = tmp_path / "out" / "decoder.onnx"
    resealed(path, CHANGED[kind])
    digest = properties(parsed_file(path))[DIGEST]

    def refer(model: onnx.ModelProto) -> None:
        next(each for each in model.metadata_props if each.key == PARTS).value = json.dumps({path.name: digest})

    resealed(path.with_name("model.onnx"), refer)
    with pytest.raises(ArtefactError, match=r"states that decoder\.onnx takes|its metadata are damaged"):
        OnnxBackend().load_decoder(path.parent, "cpu")


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 100, b"\x0a" * 10**6, json.dumps({}).encode(), b"\x3a\xff\xff\xff\xff\x0f"]
)
def test_what_is_no_model(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtefactError) as caught:
        OnnxBackend().metadata(path)
    assert caught.value.where == str(path)
