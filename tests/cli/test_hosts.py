"""flashir export --for: the folders that hosts read, with the tokenizer and the tokens that end texts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import TINY, Cli

TEXT = "The quick fox"
HIDDEN = """model @hidden(%ids: i32[B, T]) {
  %x = embed(%ids) {vocab = 256, dim = 256}
  %y = flash(%x) {key_dim = 4, chunk = 8}
  return %y
}
"""


@pytest.fixture(scope="module")
def ending(worded: Path) -> str:
    """A token of the tokenizer, to end texts."""
    vocab: dict[str, int] = json.loads((worded / "tokenizer.json").read_text())["model"]["vocab"]
    return max(vocab, key=lambda name: vocab[name])


@pytest.mark.parametrize("host", ["genai", "hub"])
def test_a_folder_names_its_end_token_and_has_the_tokenizer(
    cli: Cli, worded: Path, tmp_path: Path, host: str, ending: str
) -> None:
    out = tmp_path / "out"
    made = cli.json("export", worded, "--for", host, "--end-token", ending, "-o", out)
    written = {Path(file).name for file in made["files"]}
    assert written == {file.name for file in out.iterdir()}
    configs = {
        "genai": {"genai_config.json", "decoder.onnx"},
        "hub": {"config.json", "modeling_flashir.py", "README.md"},
    }
    assert configs[host] | {"tokenizer.json", "tokenizer_config.json"} < written
    assert json.loads((out / "tokenizer_config.json").read_text())["eos_token"] == ending
    assert "the folder is not empty" in cli.fails("export", worded, "--for", host, "--end-token", ending, "-o", out)


@pytest.mark.parametrize(
    ("host", "config"),
    [
        ("genai", "genai_config.json"),
        pytest.param("hub", "config.json", marks=pytest.mark.slow),
        pytest.param("web", "index.html", marks=pytest.mark.slow),
    ],
)
def test_files_for_a_host_go_with_the_export_that_they_belong_to(
    cli: Cli, worded: Path, tmp_path: Path, ending: str, host: str, config: str
) -> None:
    """An export without a host removes them, but not what was changed since, nor other files."""
    out = tmp_path / "out"
    for changed in (False, True):
        cli.ok("export", worded, "--for", host, "--end-token", ending, "-o", out, "--force")
        (out / "notes.txt").write_text("mine")
        if changed:
            (out / config).write_text("{}")
        cli.ok("export", worded, "-o", out, "--force")
        kept = {"model.onnx", "tokenizer.json", "notes.txt"} | ({config} if changed else set())
        assert {file.name for file in out.iterdir()} == kept


def test_the_record_of_an_export_removes_nothing_outside_its_folder(cli: Cli, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other.txt"
    other.write_text("mine")
    out.mkdir()
    digest = hashlib.sha256(b"mine").hexdigest()
    for record in (json.dumps({"files": {"../other.txt": digest, "": digest, "sub/x": digest}}), "[]", "{"):
        (out / "flashir.json").write_text(record)
        cli.ok("export", *TINY, "-o", out, "--force")
        assert other.read_text() == "mine"


def test_the_card_says_how_a_run_was_trained(cli: Cli, text: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    few = ("--steps", 2, "--tokens", 64, "--seq-len", 32, "--validate-every", 1, "--valid", text)
    cli.ok("train", *TINY, "--data", text, *few, "-o", run)
    cli.ok("export", run, "--for", "hub", "-o", out)
    card = (out / "README.md").read_text()
    assert "- 2 of 2 steps with rows of 32 tokens, 128 tokens in all" in card
    assert "- data: text.txt; tokenizer: bytes" in card and "after step 2, on text of text.txt: loss" in card
    assert str(tmp_path) not in card
    assert "--target does nothing" in cli.fails(
        "export", run, "--for", "hub", "--target", "onnx:cpu", "-o", out, "--force"
    )


def test_genai_reads_the_tokenizer(cli: Cli, worded: Path, tmp_path: Path, ending: str) -> None:
    genai: Any = pytest.importorskip("onnxruntime_genai")
    out = tmp_path / "out"
    cli.ok("export", worded, "--for", "genai", "--end-token", ending, "-o", out)
    (wanted,) = cli.json("generate", out, "--prompt", TEXT, "--tokens", 12, "--temperature", 0)["results"]
    model = genai.Model(str(out))
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=64)
    host = genai.Generator(model, params)
    ids = genai.Tokenizer(model).encode(TEXT)
    assert len(ids) == wanted["prompt_tokens"]
    host.append_tokens(np.asarray(ids, np.int32))
    for token in wanted["tokens"]:
        host.generate_next_token()
        assert int(host.get_next_tokens()[0]) == token


def test_what_is_refused(cli: Cli, worded: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "out")
    said = cli.fails("export", *TINY, "--for", "genai", *out)
    assert "needs a token that ends texts" in said and "--end-token" in said
    assert "give --split or --for, not both" in cli.fails("export", worded, "--split", "--for", "genai", *out)
    assert "give --web or --for, not both" in cli.fails("export", worded, "--web", "--for", "genai", *out)
    assert "no token 'absent'" in cli.fails("export", worded, "--for", "hub", "--end-token", "absent", *out)
    assert "does not compute in bf16" in cli.fails("export", *TINY, "--decode", "--dtype", "bfloat16", *out)
    hidden = tmp_path / "hidden.fir"
    hidden.write_text(HIDDEN)
    for host in ("genai", "hub", "web"):
        assert "is not logits over the tokens" in cli.fails("export", hidden, "--for", host, "--end-token", "0", *out)
    assert not (tmp_path / "out").exists()
