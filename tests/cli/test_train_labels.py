"""flashir train on labelled examples: classes and tags, their accuracy, and their names wherever the model goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.models.checkpoint import load_checkpoint
from tests.cli.conftest import TINY, Cli

pytest.importorskip("torch")
SHORT = ("--batch", 8, "--seq-len", 16, "--steps", 30, "--chunk", 16, "--learning-rate", 0.02, "--clip", 1)
WORDS = {"sport": "goal team cup", "money": "bank fund tax"}


def write(path: Path, count: int, seed: int, *, tags: bool = False) -> Path:
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        label = str(random.choice(list(WORDS)))
        words = [str(word) for word in random.choice(WORDS[label].split(), random.integers(1, 4))]
        rows.append(
            {"tokens": words, "labels": [label] * len(words)} if tags else {"text": " ".join(words), "label": label}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(params=["class", pytest.param("tags", marks=pytest.mark.slow)])
def trained(request: pytest.FixtureRequest, cli: Cli, tmp_path: Path) -> tuple[str, Path, dict[str, Any]]:
    tags = request.param == "tags"
    data, valid = write(tmp_path / "data.jsonl", 80, 0, tags=tags), write(tmp_path / "valid.jsonl", 24, 1, tags=tags)
    model = (*TINY, "-s", "depth=1", "--task", "mlm", "-s", f"predict={request.param}")
    found = cli.json("train", *model, "--data", data, "--valid", valid, *SHORT, "-o", tmp_path / "run")
    return request.param, tmp_path, found


def test_labels_are_learnt_measured_and_named(trained: tuple[str, Path, dict[str, Any]], cli: Cli) -> None:
    task, folder, found = trained
    run = folder / "run"
    assert found["validation_accuracy"] > 0.9 and found["loss"] < 0.5
    checkpoint = load_checkpoint(run)
    assert checkpoint.labels == ("money", "sport") and checkpoint.model.outputs[0].type.shape[-1] == 2
    assert [value.name for value in checkpoint.model.inputs] == ["ids", "mask"]
    measured = cli.json("eval", run, "--data", folder / "valid.jsonl", "--target", "torch:cpu")
    assert measured["accuracy"] == found["validation_accuracy"]
    assert measured["loss"] == pytest.approx(found["validation_loss"], rel=1e-4, abs=1e-6)
    counts = [of["count"] for of in measured["by_label"].values()]
    assert sum(counts) == measured["labels"] >= measured["examples"] == 24
    cli.ok("export", run, "-o", folder / "out")
    by_export = cli.json("eval", folder / "out", "--data", folder / "valid.jsonl", "--seq-len", 16)
    assert by_export["by_label"] == measured["by_label"]
    for model in (run, folder / "out"):
        told = cli.json("run", model, input="team goal cup")
        assert told["labels"] == ["sport"] if task == "class" else set(told["labels"][0]) <= {"sport", "money"}
    assert "accuracy" in cli.ok("eval", run, "--data", folder / "valid.jsonl")
    assert "sport" in cli.ok("run", run, input="team goal cup")
    assert "--by-position" in cli.fails("eval", run, "--data", folder / "valid.jsonl", "--by-position")


def test_a_run_goes_on_and_another_begins_with_the_same_labels(cli: Cli, tmp_path: Path) -> None:
    data, short = write(tmp_path / "data.jsonl", 20, 0), SHORT[:5]
    model = (*TINY, "--task", "mlm", "-s", "predict=class")
    cli.ok("train", *model, "--data", data, *short, 2, *SHORT[6:], "-o", tmp_path / "run")
    only = tmp_path / "only.jsonl"
    only.write_text('{"text": "tax", "label": "money"}\n' * 4 + '{"text": "cup", "label": "money"}\n')
    cli.ok("train", tmp_path / "run", "--data", only, *short, 1, "-o", tmp_path / "next")
    assert load_checkpoint(tmp_path / "next").labels == ("money", "sport")
    data.write_text(data.read_text() + '{"text": "more", "label": "sport"}\n')
    assert "the content of data has changed" in cli.fails("train", "--resume", tmp_path / "run")
    told = cli.fails("eval", tmp_path / "run", "--data", write(tmp_path / "odd.jsonl", 0, 0))
    assert "no example is given" in told


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("-s", "predict=class", "-s", "labels=3"), "the model scores 3 labels, the data have 2: money, sport"),
        (("-s", "predict=class", "-s", "mask=false"), "the model takes no mask to hide the padding"),
        (("-s", "predict=class", "--tokenizer", "bpe:300"), "bpe:300 is trained on text"),
        (("-s", "predict=tags"), "it has no labels, but label"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_examples_is_refused(
    settings: tuple[str, ...], told: str, cli: Cli, tmp_path: Path
) -> None:
    data = write(tmp_path / "data.jsonl", 20, 0)
    assert told in cli.fails("train", *TINY, *settings, "--data", data, *SHORT, "-o", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_features_learn_labels_without_a_tokenizer(cli: Cli, tmp_path: Path) -> None:
    b = flashir.Builder("features")
    x, mask = b.input("x", "f32[B, T, 8]"), b.input("mask", "bool[B, T]")
    (h,) = b.insert("gau", (x, mask), {"key_dim": 4, "causal": False, "qk_scale": "none"})
    graph = b.finish(b.unembed(h, vocab=2, tied=False, bias=True, scope="head"))
    (tmp_path / "model.fir").write_text(flashir.dumps(graph))
    random = np.random.default_rng(0)
    rows = [
        {"features": (x := random.standard_normal((5, 8)).round(3)).tolist(), "labels": (x[:, 0] > 0).tolist()}
        for _ in range(40)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = (*SHORT[:6], "--learning-rate", 0.05, "--clip", 1, "-o", tmp_path / "run")
    found = cli.json("train", tmp_path / "model.fir", "--data", tmp_path / "data.jsonl", *recipe)
    assert found["loss"] < 0.6 and not (tmp_path / "run" / "tokenizer.json").exists()
    measured = cli.json("eval", tmp_path / "run", "--data", tmp_path / "data.jsonl")
    assert set(measured["by_label"]) == {"false", "true"} and measured["accuracy"] > 0.6
