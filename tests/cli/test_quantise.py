"""flashir export --quantize: what it prints, what it refuses, and that other verbs take what it wrote."""

import os
from pathlib import Path

import numpy as np
import pytest

import flashir
from flashir.models.parameters import save_params, unit
from flashir.train.data import Tokenizer

BYTES = ("flash", "-s", "d_model=32", "-s", "depth=2", "-s", "key_dim=16", "-s", "vocab=256", "--chunk", "16")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("It is a truth universally acknowledged, that a single man must be in want of a wife.\n" * 30)
    return path


@pytest.fixture
def narrow(cli, text, tmp_path) -> Path:
    cli.ok("export", *BYTES, "--decode", "--quantize", "int8", "--text", text, "-o", tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("kind", ["int8", pytest.param("float16", marks=pytest.mark.slow)])
def test_it_says_what_narrow_weights_save_and_cost(cli, text, tmp_path, kind):
    line = ("export", *BYTES, "--quantize", kind, "--text", text, "-o", tmp_path / "out")
    made = cli.json(*line)
    found = made["quantised"]
    assert (found["kind"], found["text"]) == (kind, "of the text given")
    assert found["tokens"] == len(text.read_bytes()) - 1
    assert found["growth"] == pytest.approx(found["perplexity"] / found["float_perplexity"] - 1, abs=1e-9)
    assert found["bytes"] == sum(made["files"].values())
    assert found["float_bytes"] == 4 * made["parameters"]
    shown = cli.ok(*line, "--force")
    assert f"{kind}  " in shown and " -> " in shown and f"on {found['tokens']:,} tokens of the text given" in shown


@pytest.mark.slow
def test_without_a_text_the_model_writes_one(cli, tmp_path):
    found = cli.json("export", *BYTES, "--quantize", "int8", "-o", tmp_path / "out")["quantised"]
    assert found["text"] == "of the float model itself" and found["tokens"] > 1000


def test_an_export_as_it_is_costs_nothing(cli, tmp_path):
    assert cli.json("export", *BYTES, "-o", tmp_path / "out")["quantised"] is None


@pytest.mark.slow
def test_other_verbs_take_what_it_wrote(cli, narrow, text):
    ran = cli.json("run", narrow, "--text", text, "--verify", "--seed", 0)
    assert ran["ok"] and ran["relative_error"] > 1e-4
    assert cli.json("run", narrow, "--text", text, "--verify")["ok"]
    assert cli.json("check", narrow, "--seed", 0, "--lengths", "1,20")["ok"]
    whole = flashir.compile(flashir.load(_fir(cli, narrow)), params=flashir.init(flashir.load(_fir(cli, narrow))))
    loss = cli.json("eval", narrow, "--data", text)["loss"]
    ids = np.frombuffer(text.read_bytes(), np.uint8)[None, :].astype(np.int64)
    logits = whole(ids[:, :-1]).astype(np.float64)
    chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert loss == pytest.approx(-np.take_along_axis(chances, ids[:, 1:, None], -1).mean(), rel=1e-2)
    assert cli.ok("generate", narrow, "--prompt", "It is", "--tokens", "4")


def _fir(cli, narrow: Path) -> Path:
    path = narrow.parent / "again.fir"
    path.write_text(cli.ok("show", narrow))
    return path


@pytest.mark.slow
def test_int8_is_small(cli, text, tmp_path):
    wide = (*BYTES[:1], "-s", "d_model=128", "-s", "depth=2", "-s", "key_dim=64", "-s", "vocab=256", "--chunk", "16")
    made = cli.json("export", *wide, "--quantize", "int8", "--text", text, "-o", tmp_path / "out")
    whole = cli.json("export", *wide, "-o", tmp_path / "whole")
    assert sum(made["files"].values()) < 0.4 * sum(whole["files"].values())
    assert os.path.getsize(made["path"]) < made["quantised"]["float_bytes"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("--quantize", "int8", "--tolerance", "-1"), ("tolerance must be a fraction", "-1")),
        (("--tolerance", "0.1"), ("--quantize int8",)),
        (("--quantize", "int8", "--dtype", "float16"), ("computes in float32",)),
        (("--quantize", "int8", "--target", "torch:cpu"), ("torch", "does not quantise", "onnx")),
        (("--quantize", "int8", "-s", "causal=false"), ("--text FILE",)),
    ],
)
def test_what_cannot_be_is_refused(cli, tmp_path, line, words):
    if "torch:cpu" in line:
        pytest.importorskip("torch")
    message = cli.fails("export", *BYTES, *line, "-o", tmp_path / "out")
    assert all(word in message for word in words)
    assert not list(tmp_path.rglob("model.*"))


def test_an_unknown_kind_is_refused_with_those_there_are(cli, tmp_path):
    result = cli("export", *BYTES, "--quantize", "int3", "-o", tmp_path / "out")
    assert result.exit_code == 2 and "int8" in result.stderr and not (tmp_path / "out").exists()


def test_an_empty_text_is_refused(cli, tmp_path):
    (tmp_path / "empty.txt").touch()
    message = cli.fails("export", *BYTES, "--quantize", "int8", "--text", tmp_path / "empty.txt", "-o", tmp_path / "o")
    assert "empty" in message and not (tmp_path / "o").exists()


def test_a_text_of_another_tokenizer_is_refused(cli, text, tmp_path):
    pytest.importorskip("tokenizers")
    from flashir.train.data import documents

    Tokenizer.trained(documents([text]), 300).save(tmp_path / "other.json")
    line = ("export", *BYTES, "--quantize", "int8", "--text", text, "--tokenizer", tmp_path / "other.json")
    message = cli.fails(*line, "-o", tmp_path / "out")
    assert "the model has a vocabulary of 256, the tokenizer" in message and not (tmp_path / "out").exists()


def test_a_vocabulary_without_a_tokenizer_needs_one(cli, text, tmp_path):
    line = ("export", "flash", "-s", "vocab=999", "--quantize", "int8", "--text", text)
    message = cli.fails(*line, "-o", tmp_path / "out")
    assert "has no tokenizer" in message and "--tokenizer FILE" in message


@pytest.mark.slow
def test_too_much_lost_is_refused(cli, tmp_path):
    model = flashir.model("flash", size="tiny", chunk=16)
    save_params(unit(model), tmp_path / "unit.safetensors")
    line = ("export", "flash", "--size", "tiny", "--chunk", "16", "--params", tmp_path / "unit.safetensors")
    message = cli.fails(*line, "--quantize", "int8", "--tolerance", "0", "-o", tmp_path / "out")
    assert "perplexity grows from" in message and "quantised to int8" in message and "float16" in message
    assert not (tmp_path / "out").exists()
