"""Messages say what is so, in the words of whoever reads them: arguments of Python, options of the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import flashir
from flashir.errors import FlashirError, command_line, option
from flashir.train.data import Tokenizer, prepare
from tests.cli.conftest import TINY, Cli


def test_an_option_is_spelled_for_its_reader() -> None:
    assert (option("max_len", 4096), option("force"), option("text", "")) == ("max_len=4096", "force=True", "text")
    with command_line():
        assert (option("max_len", 4096), option("force"), option("text", "")) == ("--max-len 4096", "--force", "--text")
    assert option("validation", "", flag="--valid") == "validation"


def test_a_lock_names_what_overrides_it(cli: Cli, checkpoint: Path) -> None:
    model, params = flashir.load(checkpoint / "model.fir"), flashir.load_params(checkpoint / "params.safetensors")
    with pytest.raises(FlashirError, match=r"rechunk=True overrides") as told:
        flashir.compile(model, params=params, chunk=128)
    assert "--" not in str(told.value)
    assert "--rechunk overrides" in cli.fails("run", checkpoint, "--chunk", 128, input="x")


def test_an_export_that_is_not_there_is_none(cli: Cli, tmp_path: Path) -> None:
    for name in ("nosuch.onnx", "nosuch.pt2", "nosuch.jax"):
        said = cli.fails("plan", tmp_path / name)
        assert "there is no such file" in said and "exported" not in said.splitlines()[0]


def test_parameters_of_another_model_are_told_one_by_one(cli: Cli, tmp_path: Path) -> None:
    other = flashir.init(flashir.model("transformer", size="tiny"))
    flashir.save_params(other, tmp_path / "p.safetensors")
    said = cli.fails("export", *TINY, "--params", tmp_path / "p.safetensors", "-o", tmp_path / "out")
    assert "layers.0.proj_in.weight is missing" in said and "none of the chunks" not in said


def test_a_chunk_that_is_too_long_is_said_to_be(cli: Cli) -> None:
    assert "use a smaller chunk, batch or length" in cli.fails("plan", *TINY, "--chunk", 1_000_000)


def test_a_device_that_is_missing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashir_onnx.OnnxBackend.devices", lambda self: ("tpu",))
    assert "such as onnx:tpu" in cli.fails("run", *TINY, input="x")


@pytest.mark.parametrize("where", ["/proc/nonexistent", "a file"])
def test_tokens_that_cannot_be_kept_are_used_all_the_same(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_text("")
    (tmp_path / "text.txt").write_text("some text")
    (tmp_path / "empty.txt").write_text("")
    monkeypatch.setenv("FLASHIR_CACHE", where if where.startswith("/") else str(tmp_path / where))
    for temporary in (True, False):
        if not temporary:
            monkeypatch.setattr("tempfile.TemporaryFile", lambda: (tmp_path / "no" / "where").open("wb"))
        with pytest.warns(UserWarning, match="tokens are not kept in .*; set FLASHIR_CACHE") as warned:
            found = prepare([tmp_path / "text.txt"], Tokenizer.bytes())
        assert len(warned) == 1
        assert np.array_equal(found.read(0, 99), list(b"some text"))


def test_a_measurement_needs_no_home(cli: Cli, tmp_path: Path, artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHIR_CACHE", "/proc/nonexistent")
    (tmp_path / "text.txt").write_text("some text to read")
    result = cli("eval", artefact, "--data", tmp_path / "text.txt", "--seq-len", 8)
    assert result.exit_code == 0 and result.stderr.count("FLASHIR_CACHE") == 1
    said = cli.fails("calibrate", "onnx:cpu")
    assert "set FLASHIR_CACHE" in said
