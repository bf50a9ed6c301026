"""The tokenizer beside an artefact: found by its digest, whole with it or not at all, and nobody else's is replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import flashir
from flashir.backends.registry import backend
from flashir.errors import ArtefactError
from flashir.models.tokenizer_file import DIGEST, ExportedTokenizer, tokenizer_beside

TARGETS = ["onnx:cpu", *(pytest.param(name, marks=pytest.mark.slow) for name in ("torch:cpu", "jax:cpu"))]
MODEL = flashir.model("flash", size="tiny", chunk=16, cumsum="native")


def tokenizer(folder: Path, text: str = "{}") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "tokenizer.json"
    path.write_text(text)
    return path


@pytest.mark.parametrize("target", TARGETS)
def test_an_export_brings_its_tokenizer(target: str, tmp_path: Path) -> None:
    given = tokenizer(tmp_path / "model", '{"a": "é"}')
    made = flashir.export(MODEL, tmp_path / "out", target, tokenizer=given)
    metadata = backend(target.partition(":")[0]).metadata(made.path)
    found = tokenizer_beside(made.path, metadata)
    assert found == tmp_path / "out" / "tokenizer.json" and found.read_bytes() == given.read_bytes()
    assert json.loads(metadata["flashir.plan"])["target"] == target


def test_without_one_another_file_is_not_taken_for_it(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    made = flashir.export(MODEL, tmp_path)
    assert tokenizer_beside(made.path, backend("onnx").metadata(made.path)) is None
    assert (tmp_path / "tokenizer.json").read_text() == "{}"


def test_a_tokenizer_that_is_missing_or_another_is_told(tmp_path: Path) -> None:
    main, about = tmp_path / "model.onnx", ExportedTokenizer(b"{}").metadata
    with pytest.raises(ArtefactError, match=r"tokenizer.json: it is missing"):
        tokenizer_beside(main, about)
    tokenizer(tmp_path, "{ }")
    with pytest.raises(ArtefactError, match=r"tokenizer.json: it is not the tokenizer"):
        tokenizer_beside(main, about)


def test_a_commit_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    old = tokenizer(tmp_path)

    def fail() -> Path:
        raise ArtefactError("no")

    with pytest.raises(ArtefactError, match="no"):
        ExportedTokenizer(b"new").put(tmp_path, fail)
    assert [*tmp_path.iterdir()] == [old] and old.read_text() == "{}"


def test_a_kill_at_any_moment_leaves_a_model_with_its_tokenizer(tmp_path: Path) -> None:
    main, path, new = tmp_path / "model.onnx", tokenizer(tmp_path), ExportedTokenizer(b"new")

    left: list[Path] = []

    def committed() -> Path:
        left.extend(tmp_path.glob(".*"))
        return main

    assert new.put(tmp_path, committed) == main
    (temporary,) = left
    path.write_bytes(b"old")
    temporary.write_bytes(b"new")
    assert tokenizer_beside(main, ExportedTokenizer(b"old").metadata) == path and path.read_bytes() == b"old"
    assert tokenizer_beside(main, new.metadata) == path and path.read_bytes() == b"new"
    assert not temporary.exists()
    temporary.write_bytes(b"of a run that was killed")
    new.put(tmp_path, committed)
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("name", ["manifest.json", "recipe.toml"])
def test_the_tokenizer_of_a_run_or_checkpoint_stays(name: str, tmp_path: Path) -> None:
    path = tokenizer(tmp_path)
    (tmp_path / name).touch()
    with pytest.raises(ArtefactError, match="tokenizer of another model\nchoose another folder"):
        ExportedTokenizer(b"new").put(tmp_path, lambda: tmp_path)
    assert path.read_text() == "{}"
    assert ExportedTokenizer(b"{}").put(tmp_path, lambda: tmp_path) == tmp_path
    assert ExportedTokenizer(b"").metadata == {
        DIGEST: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    }
