"""Checkpoints of a run: whole or not at all, every file verified, of one model."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.errors import ArtefactError, FlashirError, ParameterError
from flashir.files import atomic as files
from flashir.models.checkpoint import (
    OPTIMIZER,
    POSITION,
    TOKENIZER,
    State,
    load_checkpoint,
    load_state,
    save_checkpoint,
)

MODEL = flashir.model("flash", size="tiny", chunk=64, cumsum="scan")
PARAMS = flashir.init(MODEL)


def state(params: Any = PARAMS) -> State:
    moments = {f"{moment}.{name}": array * 2 for name, array in params.items() for moment in ("mean", "square")}
    return State({**moments, "count": np.array(7, np.int64)}, {"step": 7})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tokenizer = tmp_path / "given.json"
    tokenizer.write_text("{}")
    return save_checkpoint(MODEL, PARAMS, tmp_path / "checkpoint", tokenizer=tokenizer, state=state())


def test_all_that_was_saved_is_loaded(saved: Path) -> None:
    found, again = load_checkpoint(saved), load_state(saved, PARAMS)
    assert found.model == MODEL and found.tokenizer == saved / TOKENIZER
    assert found.tokenizer.read_text() == "{}"
    assert again.position == {"step": 7}
    assert again.optimizer.keys() == state().optimizer.keys()
    for name, array in state().optimizer.items():
        assert again.optimizer[name].dtype == array.dtype and np.array_equal(again.optimizer[name], array)


@pytest.mark.parametrize("name", ["model.fir", "params.safetensors", TOKENIZER, OPTIMIZER, POSITION])
def test_a_flipped_bit_is_found_wherever_it_is(saved: Path, name: str) -> None:
    content = (saved / name).read_bytes()
    for place in {0, len(content) // 3, len(content) // 2, len(content) - 1}:
        flip(saved / name, content, place)
        with pytest.raises(ArtefactError, match=f"{name} is damaged"):
            load_checkpoint(saved)


def test_a_flipped_bit_in_the_manifest_is_found(saved: Path) -> None:
    content = (saved / "manifest.json").read_bytes()
    for name in (b"{", b"sha256", b"model.fir", b"tokenizer.json"):
        flip(saved / "manifest.json", content, content.index(name))
        with pytest.raises(ArtefactError, match=r"manifest.json is damaged|tokenizer.json is not in the manifest"):
            load_checkpoint(saved)


def flip(path: Path, content: bytes, place: int) -> None:
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


def test_a_checkpoint_of_another_version_is_refused_with_what_reads_it(saved: Path) -> None:
    manifest = saved / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema": 1', '"schema": 99'))
    with pytest.raises(ArtefactError, match=r"manifest.json has schema 99, .* version of flashir that wrote it"):
        load_checkpoint(saved)


def test_every_missing_file_is_named_at_once(saved: Path) -> None:
    (saved / OPTIMIZER).unlink()
    (saved / TOKENIZER).unlink()
    with pytest.raises(ArtefactError) as caught:
        load_checkpoint(saved)
    assert caught.value.problems == (f"{TOKENIZER} is missing", f"{OPTIMIZER} is missing")


def test_the_state_of_another_model_is_refused(tmp_path: Path) -> None:
    other = flashir.model("flash", size="tiny", chunk=64, cumsum="scan", depth=3)
    folder = save_checkpoint(MODEL, PARAMS, tmp_path / "made", state=state(flashir.init(other)))
    with pytest.raises(ParameterError, match="state of the same model") as caught:
        load_state(folder, PARAMS)
    assert any(each.startswith("mean.layers.2.norm.scale belongs to no parameter") for each in caught.value.problems)
    with pytest.raises(ParameterError, match=r"mean\.layers\.2\.norm\.scale is missing"):
        load_state(save_checkpoint(other, flashir.init(other), tmp_path / "second", state=state()), flashir.init(other))


def test_a_checkpoint_without_state_is_none_to_go_on_from(tmp_path: Path) -> None:
    folder = save_checkpoint(MODEL, PARAMS, tmp_path / "made")
    assert load_checkpoint(folder).tokenizer is None
    with pytest.raises(ArtefactError, match="no state to resume from"):
        load_state(folder, PARAMS)


@pytest.mark.parametrize("writes", range(5))
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    whole, left = files.os.fsync, writes

    def fsync(handle: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(ArtefactError, match="No space left on device\nfree some space"):
        save_checkpoint(MODEL, PARAMS, tmp_path / "made", state=state())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits")
def test_parameters_that_do_not_fit_are_an_error_of_the_file_system(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)  # Python ignores the signal, so that the write fails
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(ArtefactError, match="cannot write: File too large"):
            flashir.save_params(PARAMS, tmp_path / "p.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_parameters_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    broken = {**PARAMS, "embed.weight": np.full_like(PARAMS["embed.weight"], np.nan)}
    with pytest.raises(FlashirError, match="not finite"):
        save_checkpoint(MODEL, broken, tmp_path / "made")
    assert list(tmp_path.iterdir()) == []
