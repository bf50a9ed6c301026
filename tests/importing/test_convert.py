"""flashir.convert: what it reads, what it asks for, what it refuses."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import flashir
from flashir.errors import FlashirError, InputError, ParameterError, SettingError
from tests.importing.support import OPTIONS, VOCAB, flash_transformer

Damage = Any


def wanted(seed: int = 0, **sizes: Any) -> flashir.Converted:
    return flashir.convert(flash_transformer(seed, **sizes), **OPTIONS)


def same(one: flashir.Converted, other: flashir.Converted) -> None:
    assert flashir.dumps(one.model) == flashir.dumps(other.model)
    assert one.params.keys() == other.params.keys()
    for name, array in one.params.items():
        np.testing.assert_array_equal(array, other.params[name])


def tensors(state: dict[str, Any], dtype: Any = None) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array).to(dtype) for name, array in state.items()}


def test_a_safetensors_file_is_its_tensors(tmp_path: Path) -> None:
    save_file(flash_transformer(), tmp_path / "m.safetensors")
    same(flashir.convert(tmp_path / "m.safetensors", **OPTIONS), wanted())
    same(flashir.convert(str(tmp_path), **OPTIONS), wanted())


def test_a_file_in_parts_is_one(tmp_path: Path) -> None:
    state = flash_transformer()
    names = list(state)
    parts = {"m-00001-of-00002.safetensors": names[:7], "m-00002-of-00002.safetensors": names[7:]}
    for part, inside in parts.items():
        save_file({name: state[name] for name in inside}, tmp_path / part)
    index = {"weight_map": {name: part for part, inside in parts.items() for name in inside}}
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps(index))
    same(flashir.convert(tmp_path / "m.safetensors.index.json", **OPTIONS), wanted())
    same(flashir.convert(tmp_path, **OPTIONS), wanted())


@pytest.mark.parametrize("around", ["", "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_pickle_is_read_whatever_is_around_its_tensors(tmp_path: Path, around: str, wrapper: str) -> None:
    state: Any = {wrapper + name: tensor for name, tensor in tensors(flash_transformer()).items()}
    torch.save({around: state, "epoch": 3} if around else state, tmp_path / "m.pt")
    made = flashir.convert(tmp_path / "m.pt", **OPTIONS)
    same(made, wanted())
    notes = "\n".join(made.notes)
    assert all(f"{part}.'" in notes for part in wrapper.split(".") if part)
    assert not around or repr(around) in notes


def test_names_under_a_prefix_are_meant_alone(tmp_path: Path) -> None:
    state = {f"net.{name}": array for name, array in flash_transformer().items()}
    made = flashir.convert({**state, "other.weight": np.zeros(3, np.float32)}, prefix="net.", **OPTIONS)
    same(made, wanted())
    assert "1 tensors that do not begin with 'net.' are left out" in made.notes
    with pytest.raises(ParameterError, match=r"no name begins with 'nat\.'; they begin with net"):
        flashir.convert(state, prefix="nat.", **OPTIONS)


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16])
def test_narrow_weights_are_taken_exactly(tmp_path: Path, narrow: torch.dtype) -> None:
    state = tensors(flash_transformer(), narrow)
    torch.save(state, tmp_path / "m.pt")
    held = {name: each.float().numpy() for name, each in state.items()}
    exact = {name: value for name, value in flash_transformer().items() if name.endswith("freq") or "freqs" in name}
    same(flashir.convert(tmp_path / "m.pt", **OPTIONS), flashir.convert({**held, **exact}, **OPTIONS))
    kind = {torch.float16: np.float16, torch.bfloat16: ml_dtypes.bfloat16}[narrow]
    save_file({name: array.astype(kind) for name, array in flash_transformer().items()}, tmp_path / "n.safetensors")
    same(flashir.convert(tmp_path / "n.safetensors", **OPTIONS), flashir.convert(tmp_path / "m.pt", **OPTIONS))


def test_a_config_beside_the_file_says_the_options(tmp_path: Path) -> None:
    save_file(flash_transformer(), tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**OPTIONS, "dim": 16, "dropout": 0.1}))
    same(flashir.convert(tmp_path), wanted())
    with pytest.raises(SettingError, match=r"group_size is 5 in the config\.json, and 7 was given"):
        flashir.convert(tmp_path, group_size=7)


def test_what_no_shape_tells_is_asked_for_or_said() -> None:
    with pytest.raises(SettingError) as caught:
        flashir.convert(flash_transformer(), shift=True, laplace_attn_fn="yes")
    told = caught.value.message
    for part in (
        "shapes do not determine causal",
        "shapes do not determine group_size",
        "no option 'shift'",
        "laplace_attn_fn must be",
    ):
        assert part in told
    notes = wanted().notes
    assert "shift_tokens = True, the default of FLASHTransformer: shapes do not determine it" in notes
    assert any(note.startswith("verified in float64 at lengths 1, 4, 5, 6, 17, batch 2") for note in notes)


def test_other_options_make_another_model() -> None:
    """What was asked for is not checked against anything but the model: it must not be guessed."""
    ids = np.arange(12)[None] % VOCAB
    one, other = wanted(), flashir.convert(flash_transformer(), causal=True, group_size=4)
    results = [flashir.interpret(each.model, each.params, ids)[0] for each in (one, other)]
    assert np.abs(results[0] - results[1]).max() > 1e-3


DAMAGE: dict[str, tuple[Damage, str]] = {
    "missing": (lambda s: s.pop("layers.1.to_out.bias"), r"layers\.1\.to_out\.bias \(16,\) is missing"),
    "extra": (lambda s: s.update(head=np.zeros(3, np.float32)), "head is not a tensor of FLASHTransformer"),
    "misshapen": (
        lambda s: s.update({"layers.0.to_out.bias": np.zeros(3, np.float32)}),
        r"layers\.0\.to_out\.bias must have shape \(16,\), got \(3,\)",
    ),
    "not finite": (lambda s: s["to_logits.1.weight"].__setitem__((0, 0), np.nan), "has 1 number not finite"),
    "whole numbers": (
        lambda s: s.update({"to_logits.0.bias": np.zeros(16, np.int64)}),
        "must hold floating-point numbers, got int64",
    ),
}


def test_damage_is_told_all_at_once() -> None:
    state = flash_transformer()
    for damage, _ in DAMAGE.values():
        damage(state)
    with pytest.raises(ParameterError) as caught:
        flashir.convert(state, **OPTIONS)
    for _, told in DAMAGE.values():
        assert re.search(told, caught.value.message)


@pytest.mark.parametrize("name", ["abs_pos_emb.inv_freq", "layers.1.rotary_pos_emb.freqs"])
def test_other_frequencies_are_refused(name: str) -> None:
    state = flash_transformer()
    state[name] = state[name] ** 1.01
    with pytest.raises(ParameterError, match=f"{re.escape(name)} must be the frequencies"):
        flashir.convert(state, **OPTIONS)


class Code:
    def __reduce__(self) -> Any:
        return (print, ("this ran",))


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_files_that_are_no_state_dict_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "code.pt").write_bytes(pickle.dumps({"a": Code()}))
    torch.save({"a": Code()}, tmp_path / "zipped.pt")
    torch.save(tensors(flash_transformer()), tmp_path / "half.pt")
    half(tmp_path / "half.pt")
    save_file(flash_transformer(), tmp_path / "half.safetensors")
    half(tmp_path / "half.safetensors")
    torch.save({"a": torch.zeros(1).expand(10**9)}, tmp_path / "wide.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": torch.zeros(2), "b": "text"}, tmp_path / "mixed.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"\x80\x02}." * 1000)
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(ParameterError) as caught:
            flashir.convert(path, **OPTIONS)
        assert str(path) in caught.value.message
        assert "weights_only" not in caught.value.message
    with pytest.raises(ParameterError, match="it holds print besides tensors, and reading that runs code"):
        flashir.convert(tmp_path / "zipped.pt", **OPTIONS)
    assert "this ran" not in capsys.readouterr().out


def test_containers_that_hold_one_another_are_read_once(tmp_path: Path) -> None:
    tensor = torch.zeros(2)
    shared: list[Any] = [tensor]
    for _ in range(60):
        shared = [shared, shared]
    cyclic: dict[str, Any] = {"a": tensor}
    cyclic["state_dict"] = cyclic
    for number, content in enumerate((shared, {"a": shared}, {"model": {"a": tensor, "b": shared}}, cyclic)):
        torch.save(content, tmp_path / f"{number}.pt")
        with pytest.raises(ParameterError, match=r"holds no tensors by name|must be a tensor, got "):
            flashir.convert(tmp_path / f"{number}.pt", **OPTIONS)
    with pytest.raises(ParameterError, match="must be a tensor, got a dict"):
        flashir.convert(cyclic, **OPTIONS)
    torch.save({1: tensor, "1": tensor}, tmp_path / "twice.pt")
    with pytest.raises(ParameterError, match="1 is the name of two tensors"):
        flashir.convert(tmp_path / "twice.pt", **OPTIONS)


def test_sources_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source in (3, tmp_path / "m.h5", tmp_path / "empty"):
        with pytest.raises(InputError):
            flashir.convert(source, **OPTIONS)
    with pytest.raises(
        InputError, match=r"(?s)belong to no known model: a, .*known models are FLASHTransformer, FLASH, GAU"
    ):
        flashir.convert({"a": np.zeros(3, np.float32)})
    whole = {f"net.{name}": array for name, array in flash_transformer().items()}
    with pytest.raises(InputError, match=r"under 'net\.' are those of FLASHTransformer: give the prefix 'net\.'"):
        flashir.convert(whole, **OPTIONS)
    with pytest.raises(SettingError, match="unknown family 'flash-torch'; did you mean 'flash-pytorch'"):
        flashir.convert(flash_transformer(), family="flash-torch", **OPTIONS)
    with pytest.raises(FlashirError, match="verify must be one of auto, package, off"):
        flashir.convert(flash_transformer(), verify="maybe", **OPTIONS)


def test_modules_with_hooks_or_without_numbers_are_refused() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    module[0].register_forward_hook(lambda *_: None)
    module.forward = lambda x: x  # type: ignore[method-assign]
    with pytest.raises(InputError, match="belong to no known model") as caught:
        flashir.convert(module)
    assert "0 (Linear) has _forward_hooks" in caught.value.message
    assert "the module (Sequential) has a forward of its own" in caught.value.message
    with pytest.raises(ParameterError, match=r"0\.weight must be an array, got a Tensor: Cannot copy out of meta"):
        flashir.convert(module.to("meta"))


def test_float64_that_float32_cannot_hold_is_said() -> None:
    state: dict[str, Any] = flash_transformer()
    state["to_logits.0.bias"] = np.full(16, 0.1)
    assert any("1 tensors in float64 were rounded" in note for note in flashir.convert(state, **OPTIONS).notes)


def test_nothing_is_written_where_something_is_wrong(tmp_path: Path) -> None:
    state = flash_transformer()
    save_file(state, tmp_path / "m.safetensors")
    made = flashir.convert(tmp_path / "m.safetensors", **OPTIONS)
    made.save(tmp_path / "out")
    with pytest.raises(FlashirError, match="there is a checkpoint already"):
        made.save(tmp_path / "out")
    found = flashir.load_checkpoint(tmp_path / "out")
    assert flashir.dumps(found.model) == flashir.dumps(made.model)
