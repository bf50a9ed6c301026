"""The command line in this process, with a cache of its own, and small models to give it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.testing
from jsonschema import Draft202012Validator
from typer.testing import CliRunner, Result

import flashir
from flashir.cli.app import app
from flashir.cli.console import SCHEMA
from flashir.cli.results.schema import schema

TINY = ("flash", "--size", "tiny")


@pytest.fixture(scope="session", autouse=True)
def _commands_are_built_once() -> Iterator[None]:
    """Typer reads the signature of every verb before it runs one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.testing._get_command))
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHIR_CACHE", str(tmp_path / "cache"))
    for name in ("FLASHIR_DEBUG", "COLUMNS"):  # workers of xdist have 80 columns
        monkeypatch.delenv(name, raising=False)


@functools.cache
def validator(verb: str) -> Draft202012Validator:
    """Compares the JSON of a verb with its schema."""
    return Draft202012Validator(schema(verb))


class Cli:
    """Runs a command line; `ok`, `json` and `fails` say how it must end."""

    def __call__(self, *args: object, input: bytes | str | None = None) -> Result:
        return CliRunner().invoke(app, [str(arg) for arg in args], input=input)

    def ok(self, *args: object, input: bytes | str | None = None) -> str:
        result = self(*args, input=input)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *args: object, input: bytes | str | None = None, code: int = 0) -> Any:
        """The fields of the JSON but `schema`, once the schema of the verb has validated it."""
        result = self(*args, "--json", input=input)
        assert result.exit_code == code, result.output
        value = json.loads(result.stdout)
        validator(str(args[0])).validate(value)
        for item in value if isinstance(value, list) else [value]:
            assert item.pop("schema") == SCHEMA
        return value

    def fails(self, *args: object, input: bytes | str | None = None, code: int = 2) -> str:
        """What stands on stderr; stdout stays empty, and there is no traceback."""
        result = self(*args, input=input)
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        assert result.stderr.startswith("error:")
        return result.stderr


@pytest.fixture
def cli() -> Cli:
    return Cli()


@pytest.fixture
def fir(tmp_path: Path) -> Path:
    """A tiny model as a file."""
    path = tmp_path / "tiny.fir"
    path.write_text(flashir.dumps(flashir.model("flash", size="tiny")), encoding="utf-8")
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny model with chunks of 64 and its parameters."""
    model = flashir.model("flash", size="tiny", chunk=64)
    return flashir.save_checkpoint(model, flashir.init(model, seed=3), tmp_path / "checkpoint")


@pytest.fixture(scope="session")
def worded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a tokenizer of words, as a run would have left it."""
    pytest.importorskip("tokenizers")
    from flashir.train.data import Tokenizer, documents

    folder = tmp_path_factory.mktemp("worded")
    (folder / "text.txt").write_text("The quick brown fox jumps over the lazy dog, l'été où ça 東京. " * 9)
    Tokenizer.trained(documents([folder / "text.txt"]), 300).save(folder / "tokenizer.json")
    model = flashir.model("flash", size="tiny", chunk=16, cumsum="native", vocab=300)
    return flashir.save_checkpoint(
        model, flashir.init(model, seed=3), folder / "checkpoint", tokenizer=folder / "tokenizer.json"
    )


@pytest.fixture(scope="session")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as ONNX, with the parameters of seed 0."""
    model = flashir.model("flash", size="tiny", chunk=64, cumsum="native")
    return flashir.export(model, tmp_path_factory.mktemp("export"), target="onnx:cpu").path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(b"The quick brown fox jumps over the lazy dog. " * 5)
    return path
