"""The folder of an export: nothing in it is replaced or mixed with unasked, and what was written is listed whole."""

from __future__ import annotations

from pathlib import Path

import pytest

import flashir
from flashir.errors import ArtefactError
from flashir.train.data import Tokenizer, documents
from tests.cli.conftest import TINY, Cli

MODEL = flashir.model("flash", size="tiny", chunk=16, cumsum="native")
LINE = ("export", "flash", "--size", "tiny", "--chunk", 16, "--cumsum", "native", "-s", "vocab=256")
TARGETS = ["onnx:cpu", *(pytest.param(name, marks=pytest.mark.slow) for name in ("torch:cpu", "jax:cpu"))]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("target", TARGETS)
def test_an_export_is_replaced_only_with_force(tmp_path: Path, target: str) -> None:
    first = flashir.export(MODEL, tmp_path, target)
    before = snapshot(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in first.files} == before.keys()
    with pytest.raises(ArtefactError, match=f"not empty: it holds .*{first.path.name}.*\nforce=True replaces"):
        flashir.export(MODEL, tmp_path, target, seed=1, force=False)
    assert snapshot(tmp_path) == before
    second = flashir.export(MODEL, tmp_path, target, seed=1)
    after = snapshot(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in second.files} == after.keys()
    assert after != before


@pytest.mark.parametrize("name", ["thesis.tex", "model.onnx", "model.pt2", "recipe.toml", ".git/config", "model-notes"])
def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ArtefactError, match=f"the folder is not empty: it holds {name.partition('/')[0]}"):
        flashir.export(MODEL, tmp_path, force=False)
    assert snapshot(tmp_path) == {name: b"mine"}


def test_force_keeps_what_is_no_export(tmp_path: Path) -> None:
    for name in ("model.txt", "a", "b", "c", "d"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(ArtefactError, match="it holds a, b, c and 2 more"):
        flashir.export(MODEL, tmp_path, force=False)
    made = flashir.export(MODEL, tmp_path)
    assert [path.name for path in made.files] == ["model.onnx"]
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.txt", "a", "b", "c", "d"}


def test_an_export_that_was_cut_short_is_completed(tmp_path: Path) -> None:
    for name in (".model.onnx.0a1b2c3d.unfinished", ".tokenizer.json.0a1b2c3d.unfinished", "model-0123456789ab.data"):
        (tmp_path / name).write_text("half")
    assert flashir.export(MODEL, tmp_path, force=False).path.is_file()
    assert not (tmp_path / "model-0123456789ab.data").exists()


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    for force in (False, True):
        with pytest.raises(ArtefactError, match="out"):
            flashir.export(MODEL, tmp_path / "out", force=force)
    assert (tmp_path / "out").read_text() == "mine"


def test_the_command_line_says_its_own_option_before_it_works(cli: Cli, tmp_path: Path, worded: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes").write_text("mine")
    said = cli.fails("export", "no-such-model", "-o", out)
    assert said.startswith(f"error: {out}: the folder is not empty: it holds notes\n--force replaces an exported model")
    made = cli.json("export", worded, "--decode", "--force", "-o", out)
    files = snapshot(out)
    assert files.pop("notes") == b"mine"
    assert made["files"] == {str(out / name): len(content) for name, content in files.items()}
    assert {"model.onnx", "decoder.onnx", "tokenizer.json"} < files.keys() and len(files) == 4


def test_every_file_stands_on_a_line_with_its_size(cli: Cli, tmp_path: Path) -> None:
    shown = cli.ok(*LINE, "--web", "-o", tmp_path / "out").splitlines()
    files = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    lines = {path: next(line for line in shown if line.startswith(f"{path}  (")) for path in files}
    assert "parameters" in lines[tmp_path / "out/model.onnx"]
    assert f"{len(files)} files, " in shown[-2]


def test_a_long_export_is_foretold(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashir.cli.export.PARAMETER_S", 1e-3)
    result = cli("export", *TINY, "-o", tmp_path / "out")
    assert result.stderr.startswith("69.9k parameters to write and check: about 70 s by their number; the checks run")
    monkeypatch.undo()
    assert not cli("export", *TINY, "-o", tmp_path / "again").stderr


@pytest.mark.parametrize("target", ["openvino:cpu", *TARGETS[1:]])
def test_an_export_removes_that_of_another_backend(tmp_path: Path, target: str) -> None:
    """A reader of the folder would take either."""
    (tmp_path / "notes.txt").write_text("mine")
    for backend in ("onnx:cpu", target, "onnx:cpu"):
        written = flashir.export(MODEL, tmp_path, backend)
        assert {*tmp_path.iterdir()} == {*written.files, tmp_path / "notes.txt"}


def test_an_artefact_that_was_changed_stays(tmp_path: Path) -> None:
    flashir.export(MODEL, tmp_path)
    (tmp_path / "model.onnx").write_text("mine")
    flashir.export(MODEL, tmp_path, "jax:cpu")
    assert (tmp_path / "model.onnx").read_text() == "mine"


@pytest.mark.parametrize("owner", ["", "recipe.toml"], ids=["export", "run"])
def test_a_tokenizer_goes_with_its_model_but_stays_in_a_run(tmp_path: Path, owner: str) -> None:
    text, tokenizer = tmp_path / "text.txt", tmp_path / "own.json"
    text.write_text("a b c" * 9)
    Tokenizer.trained(documents([text]), 260).save(tokenizer)
    out = tmp_path / "out"
    flashir.export(MODEL, out, tokenizer=tokenizer)
    if owner:
        (out / owner).write_text("")
    flashir.export(MODEL, out)
    assert (out / "tokenizer.json").exists() == bool(owner)
