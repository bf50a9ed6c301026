"""Weights are read as what they are, whoever wrote them; another kind of file is told apart, by name and content."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import flashir
from flashir.errors import FlashirError, InputError, IRError, ParameterError
from flashir.models.parameters import checked, fitted, save_params, unit
from flashir.reference.arrays import as_array

MODEL = flashir.model("flash", size="tiny", chunk=16, vocab=31)
PARAMS = unit(MODEL, 1)
IDS = np.arange(25)[None]
BF16 = {name: array.astype(ml_dtypes.bfloat16) for name, array in PARAMS.items()}
EXACT = {name: array.astype(np.float32) for name, array in BF16.items()}


def written(path: Path, header: Any, data: bytes = b"") -> Path:
    """A file of that header, which is text or what JSON makes of it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def tensors(path: Path, arrays: dict[str, np.ndarray[Any, Any]], dtype: str) -> Path:
    """A file of tensors of one type, each given by its bytes."""
    header, data = {}, b""
    for name, array in arrays.items():
        content = array.tobytes()
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": (len(data), len(data) + len(content))}
        data += content
    return written(path, header, data)


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)


class TestTypes:
    def test_bfloat16_is_read_exactly(self, tmp_path: Path) -> None:
        """Every one of them, without ml_dtypes and once it is imported; NaN and infinities too."""
        path = tensors(tmp_path / "all.safetensors", {"x": np.arange(2**16, dtype="<u2")}, "BF16")
        code = f"""
import sys, numpy as np, flashir
for imported in (False, True):
    x = flashir.load_params({str(path)!r})["x"]
    wanted = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
    assert ("ml_dtypes" in sys.modules) == imported
    assert x.dtype == np.float32 and np.array_equal(x.view(np.uint32), wanted.view(np.uint32))
    import ml_dtypes
"""
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_a_model_runs_with_bfloat16_as_with_the_same_float32(self, tmp_path: Path) -> None:
        path = tensors(tmp_path / "p.safetensors", BF16, "BF16")
        assert equal(flashir.load_params(path), EXACT)
        assert np.array_equal(flashir.compile(MODEL, params=flashir.load_params(path))(IDS), logits())

    @pytest.mark.parametrize(("dtype", "kind"), [("F16", "<f2"), ("F32", "<f4"), ("F64", "<f8")])
    def test_floats_keep_their_numbers(self, dtype: str, kind: str, tmp_path: Path) -> None:
        arrays = {name: array.astype(kind) for name, array in PARAMS.items()}
        found = flashir.load_params(tensors(tmp_path / "p.safetensors", arrays, dtype))
        assert equal(found, arrays) and all(array.dtype == np.dtype(kind) for array in found.values())
        assert equal(checked(MODEL, found), {name: array.astype(np.float32) for name, array in arrays.items()})

    @pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "C64", "F9_OF_TOMORROW", ""])
    def test_types_without_a_meaning_here_are_refused_by_name(self, dtype: str, tmp_path: Path) -> None:
        arrays = {f"layers.{i}.weight": np.zeros(8, np.uint8) for i in range(2)}
        path = tensors(tmp_path / "p.safetensors", arrays, dtype)
        with pytest.raises(ParameterError) as raised:
            flashir.load_params(path)
        told = str(raised.value)
        assert all(part in told for part in (str(path), *arrays, f"type {dtype},", "F16, F32, F64, BF16"))

    @pytest.mark.parametrize("kind", [np.int64, np.uint8, bool])
    def test_whole_numbers_are_no_parameters(self, kind: Any, tmp_path: Path) -> None:
        path = tmp_path / "p.safetensors"
        save_params({**PARAMS, "embed.weight": np.zeros((31, 64), kind)}, path)
        with pytest.raises(ParameterError, match=r"embed.weight must hold floating-point numbers \(float16, bfloat16"):
            checked(MODEL, flashir.load_params(path))


def torch_like(dtype: str) -> Callable[[np.ndarray[Any, Any]], Any]:
    def make(array: np.ndarray[Any, Any]) -> Any:
        import torch

        return torch.tensor(array).to(getattr(torch, dtype)).requires_grad_()

    return make


def jax_like(dtype: str) -> Callable[[np.ndarray[Any, Any]], Any]:
    def make(array: np.ndarray[Any, Any]) -> Any:
        import jax.numpy as jnp

        return jnp.asarray(array, dtype)

    return make


def strided(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.repeat(array.T, 2, axis=0)[::2].T if array.ndim else array


KINDS = {
    "ml_dtypes": lambda array: array.astype(ml_dtypes.bfloat16),
    "torch": torch_like("float32"),
    "torch bfloat16": torch_like("bfloat16"),
    "jax": jax_like("float32"),
    "jax bfloat16": jax_like("bfloat16"),
    "big-endian": lambda array: array.astype(">f4"),
    "big-endian float64": lambda array: array.astype(">f8"),
    "strided": strided,
    "lists": lambda array: array.astype(float).tolist(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_every_library_are_taken(kind: str, tmp_path: Path) -> None:
    """They are checked, planned with, interpreted, compiled and written as the same numbers of numpy."""
    given = {name: KINDS[kind](array) for name, array in EXACT.items()}
    assert equal(checked(MODEL, given), EXACT)
    assert all(array.dtype == np.float32 and array.dtype.isnative for array in checked(MODEL, given).values())
    assert flashir.plan(MODEL, params=given).chunk == 16
    np.testing.assert_allclose(*(flashir.interpret(MODEL, params, IDS)[0] for params in (given, EXACT)), rtol=1e-9)
    save_params(given, tmp_path / "p.safetensors")
    assert equal(flashir.load_params(tmp_path / "p.safetensors"), EXACT)
    flashir.save_checkpoint(MODEL, given, tmp_path / "checkpoint")
    assert equal(flashir.load_checkpoint(tmp_path / "checkpoint").params, EXACT)


@cache
def logits() -> np.ndarray[Any, Any]:
    """Those of the same numbers in float32."""
    found = flashir.compile(MODEL, params=EXACT)(IDS)
    assert isinstance(found, np.ndarray)
    return found


@pytest.mark.parametrize("kind", ["ml_dtypes", "torch bfloat16", "jax bfloat16", "big-endian", "strided"])
def test_what_is_compiled_from_them_computes_the_same(kind: str) -> None:
    given = {name: KINDS[kind](array) for name, array in EXACT.items()}
    assert np.array_equal(flashir.compile(MODEL, params=given)(IDS), logits())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (np.ma.masked_array(np.ones(3), [0, 1, 0]), "a masked one"),
        ([[1.0], [2.0, 3.0]], "rows of several lengths"),
        (np.ones(3, ml_dtypes.float8_e4m3fn), "got float8_e4m3fn"),
        (np.ones(3, complex), "got complex128"),
        ("text", "got <U4"),
        (None, "got object"),
        (object(), "got object"),
    ],
)
def test_what_is_no_array_of_numbers_is_named_and_nothing_is_written(given: Any, told: str, tmp_path: Path) -> None:
    for use in (lambda p: checked(MODEL, p), lambda p: flashir.compile(MODEL, params=p)):
        with pytest.raises(ParameterError) as raised:
            use({**PARAMS, "final_norm.bias": given, "layers.0.rel_bias.w": given})
        assert all(part in str(raised.value) for part in (told, "final_norm.bias", "layers.0.rel_bias.w"))
    with pytest.raises(ParameterError, match=r"final_norm\.bias"):
        save_params({**PARAMS, "final_norm.bias": given}, tmp_path / "p.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [None, [1], "path", 3, iter(())])
def test_parameters_are_arrays_by_name(given: Any, tmp_path: Path) -> None:
    for use in (lambda: checked(MODEL, given), lambda: save_params(given, tmp_path / "p")):
        with pytest.raises(ParameterError, match="must be arrays by name, got a"):
            use()


def test_a_tensor_that_has_no_numbers_is_named() -> None:
    import torch

    with pytest.raises(ValueError, match=r"must be an array, got a Tensor: .*meta"):
        as_array(torch.zeros(2, device="meta"))


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DIGEST = "flashir.sha256"
HOSTILE: dict[str, tuple[Any, bytes]] = {
    **{
        f"digests {text[:9]}": ({"__metadata__": {DIGEST: text}, "a": F32}, bytes(8))
        for text in (
            "[]",
            "[1]",
            "null",
            "3",
            '"abc"',
            "[" * 200_000,
            '{"a":' * 200_000,
            "1" * 6000,
            '{"a":{}}',
            "{",
            "",
        )
    },
    "digest of nothing": ({"__metadata__": {DIGEST: '{"b":"00"}'}, "a": F32}, bytes(8)),
    "another digest": ({"__metadata__": {DIGEST: '{"a":"00"}'}, "a": F32}, bytes(8)),
    "metadata a list": ({"__metadata__": [], "a": F32}, bytes(8)),
    "metadata of numbers": ({"__metadata__": {"x": 1}, "a": F32}, bytes(8)),
    "a list": ([], b""),
    "a number": (b"3", b""),
    "nested": (b'{"a":' + b"[" * 100_000, b""),
    "not UTF-8": (b'{"\xff":1}', b""),
    "the same name twice": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        bytes(8),
    ),
    "a key twice": (b'{"a":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "more keys": ({"a": {**F32, "stride": 1}}, bytes(8)),
    "a tensor a list": ({"a": ["F32", [2], [0, 8]]}, bytes(8)),
    "shape -1": ({"a": {**F32, "shape": [-2]}}, bytes(8)),
    "shape true": ({"a": {**F32, "shape": [True, 2]}}, bytes(8)),
    "shape 2.0": ({"a": {**F32, "shape": [2.0]}}, bytes(8)),
    "shape huge": ({"a": {**F32, "shape": [2**62, 4]}}, bytes(8)),
    "shape of nothing huge": ({"a": {**F32, "shape": [0, 2**62], "data_offsets": [0, 0]}}, b""),
    "many axes": ({"a": {**F32, "shape": [1] * 5000 + [2]}}, bytes(8)),
    "offsets beyond the file": ({"a": {**F32, "data_offsets": [8, 16]}}, bytes(8)),
    "offsets before the file": ({"a": {**F32, "data_offsets": [-8, 0]}}, bytes(8)),
    "offsets backwards": ({"a": {**F32, "data_offsets": [8, 0]}}, bytes(8)),
    "offsets three": ({"a": {**F32, "data_offsets": [0, 8, 8]}}, bytes(8)),
    "overlapping": ({"a": F32, "b": F32}, bytes(8)),
    "a hole": ({"a": F32, "b": {**F32, "data_offsets": [12, 20]}}, bytes(20)),
    "more bytes": ({"a": F32}, bytes(9)),
    "fewer bytes": ({"a": F32}, bytes(7)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_makes_no_sense_is_one_error_that_names_the_file(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "p.safetensors", *HOSTILE[name])
    with pytest.raises(ParameterError) as raised:
        flashir.load_params(path)
    assert str(path) in str(raised.value) and len(str(raised.value)) < 2000


@pytest.mark.parametrize(
    "content", [b"", b"\0", bytes(8), b"\xff" * 8, b"\xff" * 100, struct.pack("<Q", 2**31) + b"{}"]
)
def test_a_stump_is_one_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    path.write_bytes(content)
    with pytest.raises(ParameterError, match="cannot read the parameters"):
        flashir.load_params(path)


@pytest.mark.skipif(os.name != "posix", reason="names of Unix")
def test_what_is_no_file_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "loop", tmp_path / "pipe", tmp_path / "none", "/dev/zero", "/dev/null"):
        with pytest.raises(ParameterError) as raised:
            flashir.load_params(place)
        assert str(place) in str(raised.value)


def archive(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name in names:
            file.writestr(name, b"x")
    return content.getvalue()


OTHERS = {
    "model.pt": (archive("model/data.pkl", "model/data/0"), "a PyTorch pickle"),
    "weights": (archive("weights/data.pkl"), "a PyTorch pickle"),
    "pytorch_model.bin": (pickle.dumps({"a": 1}, 2), "a PyTorch pickle"),
    "epoch=3.ckpt": (pickle.dumps({"a": 1}), "a PyTorch pickle"),
    "old.pth": (b"anything", "a PyTorch pickle"),
    "p.safetensors": (pickle.dumps({"a": 1}), "a PyTorch pickle"),
    "model.pt2": (archive("model/models/model.json"), "a PyTorch program"),
    "p.npz": (archive("a.npy", "b.npy"), "a NumPy file"),
    "p.npy": (b"\x93NUMPY\x01\0 and more", "a NumPy file"),
    "p.gguf": (b"GGUF\3\0\0\0 and more", "a GGUF file"),
    "model.onnx": (b"\x08\x0a\x12\x07pytorch", "an ONNX model"),
    "p.h5": (b"\x89HDF\r\n\x1a\n and more", "an HDF5 file"),
    "flax_model.msgpack": (b"\x81\xa1a\x01 and more", "a msgpack file"),
    "m.fir": (b"model @m(%x: f32[T]) { return %x }", "the text of a model"),
    "more.zip": (archive("a.txt"), "a zip archive"),
    "cut.zip": (archive("a.txt")[:20], "a zip archive"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_kind_of_file_is_told_apart(name: str, tmp_path: Path) -> None:
    content, what = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ParameterError) as raised:
        flashir.load_params(tmp_path / name)
    assert f"this is {what}" in str(raised.value) and name in str(raised.value) and raised.value.hint


@pytest.mark.parametrize("name", sorted(set(OTHERS) - {"m.fir", "old.pth"}))
def test_so_it_is_where_a_model_is_wanted(name: str, tmp_path: Path) -> None:
    content, what = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as raised:
        flashir.load(tmp_path / name)
    assert f"this is {what}" in str(raised.value) and name in str(raised.value) and raised.value.hint


def test_weights_are_no_model_whatever_their_name(tmp_path: Path) -> None:
    for name in ("p.safetensors", "m.fir", "weights"):
        save_params(PARAMS, tmp_path / name)
        with pytest.raises(InputError, match=r"this is a file of parameters, not a model\n.*with params"):
            flashir.load(tmp_path / name)


def test_the_name_of_a_file_of_weights_does_not_matter(tmp_path: Path) -> None:
    save_params(PARAMS, tmp_path / "weights.bin")
    assert equal(flashir.load_params(tmp_path / "weights.bin"), PARAMS)


class TestParts:
    @pytest.fixture
    def index(self, tmp_path: Path) -> Path:
        """The parameters in two files, and the index that names them, as large models are published."""
        names, place = sorted(PARAMS), {}
        for number in (1, 2):
            part = {name: PARAMS[name] for name in names[number - 1 :: 2]}
            file = f"model-{number:05d}-of-00002.safetensors"
            save_params(part, tmp_path / file)
            place |= dict.fromkeys(part, file)
        path = tmp_path / "model.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": place}))
        return path

    def test_the_tensors_of_all_parts_are_read(self, index: Path) -> None:
        assert equal(flashir.load_params(index), PARAMS)

    @pytest.mark.parametrize("name", ["../p.safetensors", "/etc/passwd", "", ".", "a/b", 3, None])
    def test_a_part_lies_beside_its_index(self, name: Any, index: Path) -> None:
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ParameterError, match="the name of a file next to the index"):
            flashir.load_params(index)

    @pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"weight_map": []}', '{"weight_map":' + "[" * 10**5])
    def test_an_index_that_is_none_is_one_error(self, text: str, index: Path) -> None:
        index.write_text(text)
        with pytest.raises(ParameterError, match=r"index\.json"):
            flashir.load_params(index)

    def test_parts_of_different_versions_are_told(self, index: Path) -> None:
        said = json.loads(index.read_text())
        said["weight_map"]["other"] = said["weight_map"].pop("pos.scale")
        index.write_text(json.dumps(said))
        with pytest.raises(ParameterError, match=r"other is not in[\s\S]*pos.scale is in"):
            flashir.load_params(index)


class TestNames:
    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "model.model.module."])
    def test_what_wrappers_put_before_all_names_is_taken_off_with_a_note(self, prefix: str) -> None:
        with pytest.warns(UserWarning, match=f"the prefix '{prefix}' of all 22 parameters was removed"):
            assert equal(checked(MODEL, {prefix + name: array for name, array in PARAMS.items()}), PARAMS)

    def test_an_open_chunk_hides_no_name(self) -> None:
        auto = flashir.model("flash", size="tiny", vocab=31)
        for chunk in (64, 512):
            params = flashir.init(flashir.model("flash", size="tiny", vocab=31, chunk=chunk))
            with pytest.warns(UserWarning, match="'module.' of all"):
                assert set(fitted(auto, {f"module.{name}": array for name, array in params.items()})) == set(params)
            with pytest.warns(UserWarning, match="no parameters more"):
                assert set(fitted(auto, {**params, "more": np.ones(1)}, strict=False)) == set(params)

    def test_names_that_only_some_have_stay(self) -> None:
        params = {name if name == "pos.scale" else f"module.{name}": array for name, array in PARAMS.items()}
        with pytest.raises(ParameterError, match=r"unexpected parameter module\.embed\.weight"):
            checked(MODEL, params)

    def test_a_prefix_that_is_the_model_s_own_stays(self) -> None:
        wrapped = flashir.loads("""model @m(%ids: i32[B, T]) -> f32[B, T, 8] {
  %x = embed(%ids) {vocab = 11, dim = 8, scope = "model.embed"}
  return %x
}""")
        params = flashir.init(wrapped)
        assert set(params) == {"model.embed.weight"} == set(checked(wrapped, params))

    @pytest.mark.slow
    def test_more_than_the_model_has_is_left_out_only_when_asked(self, tmp_path: Path) -> None:
        more = {**PARAMS, "head.weight": np.ones((64, 2), np.float32), "layers.7.rel_bias.w": np.ones(31, np.float32)}
        with pytest.raises(ParameterError, match=r"unexpected parameter head.weight[\s\S]*strict=False"):
            flashir.compile(MODEL, params=more)
        wanted = flashir.compile(MODEL, params=PARAMS)(IDS)
        with pytest.warns(
            UserWarning, match="@flash has no parameters head.weight, layers.7.rel_bias.w: they are left"
        ):
            assert np.array_equal(flashir.compile(MODEL, params=more, strict=False)(IDS), wanted)
        with pytest.warns(UserWarning, match="has no parameters head.weight"):
            assert flashir.plan(MODEL, params=more, strict=False) == flashir.plan(MODEL, params=PARAMS)
        with pytest.warns(UserWarning, match="has no parameters head.weight"):
            flashir.export(MODEL, tmp_path / "out", params=more, strict=False)
        with pytest.warns(UserWarning, match="has no parameters head.weight"):
            flashir.decoder(MODEL, params=more, strict=False)

    def test_what_is_missing_is_an_error_all_the_same(self) -> None:
        less = {name: array for name, array in PARAMS.items() if name != "pos.scale"}
        with pytest.raises(ParameterError, match=r"pos.scale is missing"):
            checked(MODEL, less, strict=False)


class TestRuns:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        """The folder of a run with two checkpoints, the newest with PARAMS."""
        (run := tmp_path / "run").mkdir()
        (run / "recipe.toml").write_text("")
        flashir.save_checkpoint(MODEL, flashir.init(MODEL, 9), run / "checkpoints/step-000007")
        flashir.save_checkpoint(MODEL, PARAMS, run / "checkpoints/step-1000000")
        return run

    def test_the_newest_checkpoint_of_a_run_is_loaded(self, run: Path) -> None:
        assert equal(flashir.load_checkpoint(run).params, PARAMS)

    def test_a_run_without_checkpoints_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "recipe.toml").write_text("")
        with pytest.raises(FlashirError, match="there is no checkpoint"):
            flashir.load_checkpoint(tmp_path)

    def test_a_folder_for_a_file_says_what_reads_it(self, run: Path) -> None:
        with pytest.raises(ParameterError, match="load_checkpoint"):
            flashir.load_params(run)


def test_a_text_with_a_strange_sign_is_still_that_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "m.fir").write_bytes(b"model \0 @m() {}")
    with pytest.raises(IRError, match=r"m\.fir:1:7"):
        flashir.load(tmp_path / "m.fir")
