"""A tokenizer goes wherever its model goes: into exports, and from there into run and eval."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import flashir
from flashir.train.data import Tokenizer
from tests.cli.conftest import TINY, Cli

TARGETS = ["onnx:cpu", *(pytest.param(name, marks=pytest.mark.slow) for name in ("torch:cpu", "jax:cpu"))]


@pytest.mark.parametrize("target", TARGETS)
def test_an_export_is_read_as_its_checkpoint_is(
    cli: Cli, worded: Path, text: Path, tmp_path: Path, target: str
) -> None:
    out = tmp_path / "out"
    made = cli.json("export", worded, "--target", target, "-o", out)
    assert str(out / "tokenizer.json") in made["files"]
    assert (out / "tokenizer.json").read_bytes() == (worded / "tokenizer.json").read_bytes()
    for verb, option in (("run", "--text"), ("eval", "--data")):
        one, other = (cli.json(verb, model, option, text, "--target", target) for model in (worded, out))
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
    (out / "tokenizer.json").write_text("{}")
    assert "not the tokenizer that the model was exported with" in cli.fails(
        "run", out, "--text", text, "--target", target
    )


def test_run_reads_words(cli: Cli, worded: Path, text: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.read(worded / "tokenizer.json")
    ids = tokenizer.encode(text.read_text())
    np.save(tmp_path / "ids.npy", ids)
    by_text, by_ids = (cli.json("run", worded, *given) for given in (("--text", text), ("--ids", tmp_path / "ids.npy")))
    assert by_text["shape"] == [1, len(ids), 300] and by_text["bits_per_byte"] is None
    assert {name: by_text[name] for name in ("shape", "loss", "top")} == {
        name: by_ids[name] for name in ("shape", "loss", "top")
    }
    cut = cli.json("run", worded, "--text", text, "--offset", 2, "--length", 3)
    assert cut["shape"] == [1, 3, 300]
    shown = cli.ok("run", worded, "--text", text)
    assert "bits per token" in shown and repr(tokenizer.decode([by_text["top"][0]["token"]])) in shown


def test_run_of_words_wants_utf_8_and_of_bytes_anything(cli: Cli, worded: Path, artefact: Path, tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("été".encode("latin-1"))
    assert f"{path}: this is not UTF-8 text: see byte 0" in cli.fails("run", worded, "--text", path)
    assert cli.json("run", artefact, "--text", path)["shape"] == [1, 3, 256]


def test_a_tokenizer_may_be_given_and_must_fit(cli: Cli, worded: Path, text: Path, tmp_path: Path) -> None:
    file = worded / "tokenizer.json"
    given = ("-s", "vocab=300", "--text", text, "--tokenizer", file)
    assert cli.json("run", *TINY, *given)["shape"][1] < 225
    message = cli.fails("run", *TINY, "-s", "vocab=500", "--text", text, "--tokenizer", file)
    assert "the model has a vocabulary of 500, the tokenizer 300 ids" in message
    assert "cannot be read" in cli.fails("run", *TINY, "--text", text, "--tokenizer", tmp_path / "no.json")


def test_the_mask_of_bytes_makes_no_difference(cli: Cli, text: Path) -> None:
    assert cli.json("run", *TINY, "-s", "vocab=257", "--text", text)["bits_per_byte"] is not None


def test_ids_need_no_tokenizer(cli: Cli, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(20))
    made = cli.json("run", *TINY, "-s", "vocab=1000", "--ids", tmp_path / "ids.npy")
    assert made["shape"] == [1, 20, 1000] and made["bits_per_byte"] is None


def test_exporting_into_a_run_of_another_tokenizer_is_refused(cli: Cli, worded: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").touch()
    (tmp_path / "tokenizer.json").write_text(json.dumps({"other": 1}))
    assert "tokenizer of another model" in cli.fails("export", worded, "--force", "-o", tmp_path)
    assert not (tmp_path / "model.onnx").exists()
    flashir.export(flashir.model("flash", size="tiny", chunk=16), tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == {"other": 1}
