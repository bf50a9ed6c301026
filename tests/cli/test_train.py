"""flashir train and eval: from text to a trained model, and on from where it was left, on any backend."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.cli.new_run import NewRun, default_name
from flashir.cli.train import GRACE_S
from flashir.models.checkpoint import load_checkpoint
from flashir.train.distributed import ALONE
from tests.cli.conftest import TINY, Cli

pytest.importorskip("torch")
FIELDS = {
    "run", "checkpoint", "model", "target", "parameters", "chunk", "cumsum", "steps", "of", "complete", "resumed_from",
    "tokens", "loss", "validation_loss", "validation_perplexity", "validation_accuracy", "best_validation_loss",
    "seconds", "tokens_per_second", "roofline", "waiting",
}  # fmt: skip
RECIPE = ("--batch", 4, "--seq-len", 32, "--steps", 6, "--save-every", 2, "--validate-every", 3, "--keep", 9)
SHORT = (*RECIPE, "--chunk", 16, "--learning-rate", 0.01)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "books"
    folder.mkdir()
    for name in ("one", "two"):
        lines = (f"{name} {n} is {n * n}, and its words are no {n % 7}.\n" for n in range(200))
        (folder / f"{name}.txt").write_text("".join(lines))
    return folder


def curve(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.mark.slow
def test_from_a_folder_of_text_to_an_exported_model(cli: Cli, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    made = cli.json("train", *TINY, "--data", data, *SHORT, "-o", run)
    assert set(made) == FIELDS
    assert (made["steps"], made["of"], made["complete"], made["tokens"]) == (6, 6, True, 768)
    assert (made["chunk"], made["target"], made["resumed_from"]) == (16, "torch:cpu", 0)
    assert made["loss"] < curve(run)[0]["loss"] < 4 and made["validation_loss"] == curve(run)[-1]["validation_loss"]
    assert flashir.load_checkpoint(made["checkpoint"]).model == flashir.loads(cli.ok("show", run))
    exported = cli.json("export", run, "-o", tmp_path / "out")
    assert exported["chunk"] == 16
    by_run, by_export = (
        cli.json("eval", model, "--data", data / "one.txt", "--seq-len", 32) for model in (run, tmp_path / "out")
    )
    assert by_run["loss"] == pytest.approx(by_export["loss"], abs=1e-5)
    for model, told in ((run, False), (tmp_path / "out", True)):
        found = cli("eval", model, "--data", data / "one.txt", "--json")
        assert ("rows of 1024 tokens, because" in found.stderr) is told
        assert json.loads(found.stdout)["seq_len"] == (1024 if told else 32)


@pytest.mark.slow
def test_the_resolved_recipe_is_saved_and_read(cli: Cli, data: Path, tmp_path: Path) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    cli.ok("train", *TINY, "--data", data, *SHORT, "-o", run)
    assert "warmup = 0\n" in (run / "recipe.toml").read_text() and "rows = 4\n" in (run / "recipe.toml").read_text()
    cli.ok("train", *TINY, "--chunk", 16, "--recipe", run / "recipe.toml", "-o", again)
    assert curve(again) == curve(run)
    cli.ok("train", *TINY, "--chunk", 16, "--recipe", run / "recipe.toml", "--seed", 1, "--rows", 2, "-o", again / "c")
    assert curve(again / "c")[0]["loss"] != curve(run)[0]["loss"]


def test_a_run_goes_on_from_its_newest_checkpoint(cli: Cli, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    cli.ok("train", *TINY, "--data", data, *SHORT, "-o", run)
    whole = curve(run)
    for step in (4, 6):
        folder = run / "checkpoints" / f"step-{step:06d}"
        (folder / "manifest.json").unlink()
        folder.rename(run / f"was-{step}")
    made = cli.json("train", "--resume", run)
    assert (made["resumed_from"], made["steps"]) == (2, 6)
    assert curve(run) == whole
    made = cli.json("train", "--resume", run)
    assert made["resumed_from"] == 6 and made["complete"] is True
    further = cli.json("train", "--resume", run, "--steps", 8)
    assert (further["resumed_from"], further["steps"], further["complete"]) == (6, 8, True)
    assert curve(run)[:6] == whole and len(curve(run)) == 8
    assert "steps is 8 in this run and may only grow, got 6" in cli.fails("train", "--resume", run, "--steps", 6)
    assert f"--resume {run}\n" in cli.fails("train", "--resume", made["checkpoint"])
    (run / "metrics.jsonl").unlink()
    assert "metrics.jsonl: is missing\nrestore the file" in cli.fails("train", "--resume", run)


@pytest.mark.slow
def test_a_run_goes_on_on_another_backend(cli: Cli, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("jax")
    runs = [tmp_path / name for name in ("torch", "both")]
    for run in runs:
        cli.ok("train", *TINY, "--data", data, *SHORT, "-o", run)
    (runs[1] / "checkpoints" / "step-000006").rename(tmp_path / "gone")
    made = cli.json("train", "--resume", runs[1], "--target", "jax:cpu")
    assert (made["resumed_from"], made["target"]) == (4, "jax:cpu")
    wanted, got = map(curve, runs)
    assert got[:4] == wanted[:4] and len(got) == 6
    for one, other in zip(got, wanted, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-3)
    found, other = (flashir.load_checkpoint(run / "checkpoints" / "step-000006").params for run in runs)
    for name in found:
        np.testing.assert_allclose(found[name], other[name], atol=2e-3)
    assert "jax:cpu" in (runs[1] / "recipe.toml").read_text()
    cli.ok("export", runs[1], "-o", tmp_path / "out")


def test_another_run_begins_from_a_checkpoint_with_its_tokenizer(cli: Cli, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    run, tuned = tmp_path / "run", tmp_path / "tuned"
    cli.ok("train", *TINY, "--data", data, "--tokenizer", "bpe:300", *SHORT, "-o", run)
    assert flashir.load_checkpoint(run / "checkpoints/step-000006").params["embed.weight"].shape[0] == 300
    made = cli.json("train", run, "--data", data / "two.txt", *RECIPE, "--learning-rate", 1e-4, "-o", tuned)
    assert made["loss"] < curve(run)[0]["loss"]
    assert [default_name(str(each)) for each in (run, run / "checkpoints/step-000006", "flash", "a/b.fir")] == [
        "run-next", "run-next", "flash-run", "b-run",
    ]  # fmt: skip
    assert (tuned / "tokenizer.json").read_bytes() == (run / "tokenizer.json").read_bytes()


@pytest.mark.slow
def test_a_masked_model_is_trained_and_evaluated(cli: Cli, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    made = cli.json("train", *TINY, "--task", "mlm", "--data", data, *SHORT, "-o", run)
    assert made["complete"] is True
    found = cli.json("eval", run, "--data", data)
    assert found["task"] == "mlm" and found["word_perplexity"] is None and found["bits_per_byte"] is None
    assert found["perplexity"] == pytest.approx(exp(found["loss"]))
    assert "masked token" in cli.ok("eval", run, "--data", data)


def test_documents_in_a_row_are_trained_apart(cli: Cli, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli.json("train", *TINY, "--data", data, *SHORT, "-o", run)["complete"] is True
    assert cli.json("eval", run, "--data", data, "--target", "torch:cpu")["tokens"] > 1000
    assert cli.json("run", run, "--text", data / "one.txt", "--length", 40)["loss"] < 8  # a text is one document
    named = cli.json("run", run, "--text", data / "one.txt", "--length", 40, "--target", "torch:cpu", "--verify")
    assert named["ok"] is True


@pytest.mark.parametrize(
    ("model", "settings", "told"),
    [
        ("flash", [], "token"),
        ("transformer++", ["mask=true"], "token"),
        ("flash", ["segments=chunk"], "chunk"),
        ("flash", ["segments=false"], "nothing"),
        ("model.fir", None, "nothing"),
    ],
    ids=str,
)
def test_rows_separate_documents_unless_told_otherwise(
    model: str, settings: list[str] | None, told: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.fir").write_text(flashir.dumps(flashir.model("flash", size="tiny", chunk=16, vocab=256)))
    given = {"data": (str(data),), "seq_len": 32, "tokens": 128, "rows": 4}
    size = "tiny" if settings is not None else None
    new = NewRun(model, settings, size, None, None, given, None, tmp_path / "run", {"policy": "quality"})
    graph = load_checkpoint(new.begun(ALONE, lambda *_: None)[0].newest()).model
    inputs, ops = [value.name for value in graph.inputs], {node.op for node in graph.walk()}
    assert ("segment_ids" in inputs, "documents" in ops) == (told != "nothing", told == "token")
    assert ("mask" in inputs) == ("mask=true" in (settings or []))


class TestEval:
    @pytest.fixture
    def blind(self, tmp_path: Path) -> Path:
        """A model that holds every byte for as likely as any other."""
        model = flashir.model("flash", size="tiny", chunk=16, vocab=256)
        params = {name: array * 0 for name, array in flashir.init(model).items()}
        return flashir.save_checkpoint(model, params, tmp_path / "blind")

    @pytest.mark.slow
    def test_perplexities_are_by_token_by_word_and_by_byte(self, cli: Cli, blind: Path, tmp_path: Path) -> None:
        text = tmp_path / "t.txt"
        text.write_text("ä b  cd\n" * 10)
        for length in (1, 7, 90, 1000):
            found = cli.json("eval", blind, "--data", text, "--seq-len", length)
            assert (found["tokens"], found["words"], found["bytes"]) == (89, 30, 90)
            assert found["perplexity"] == pytest.approx(256, rel=1e-5)
            assert found["bits_per_byte"] == pytest.approx(8 * 89 / 90, rel=1e-5)
            assert log(found["word_perplexity"]) == pytest.approx(89 * log(256) / 30, rel=1e-5)
        shown = cli.ok("eval", blind, "--data", text)
        assert "7.9111 per byte" in shown and "256 per token" in shown and "position" not in shown

    def test_perplexity_is_by_position_too(self, cli: Cli, blind: Path, tmp_path: Path) -> None:
        text = tmp_path / "t.txt"
        text.write_text("a" * 90)
        parts = cli.json("eval", blind, "--data", text, "--seq-len", 60, "--by-position")["by_position"]
        assert [(part["from"], part["to"], part["tokens"]) for part in parts] == [
            (0, 16, 32),
            (16, 32, 29),
            (32, 60, 28),
        ]
        shown = cli.ok("eval", blind, "--data", text, "--seq-len", 60, "--by-position")
        assert "32 to 59" in shown and "position" in shown

    def test_a_model_without_parameters_is_refused(self, cli: Cli, text: Path) -> None:
        assert "no parameters yet" in cli.fails("eval", "flash", "--data", text)

    @pytest.mark.parametrize("vocab", [100, 300])
    def test_the_tokenizer_must_be_the_models(self, cli: Cli, tmp_path: Path, text: Path, vocab: int) -> None:
        model = flashir.model("flash", size="tiny", chunk=16, vocab=vocab)
        folder = flashir.save_checkpoint(model, flashir.init(model), tmp_path / "c")
        assert f"vocabulary of {vocab}" in cli.fails("eval", folder, "--data", text)
        assert "cannot be read" in cli.fails("eval", folder, "--data", text, "--tokenizer", tmp_path / "no.json")


class TestMistakes:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (("flash",), "no training data\n--data"),
            ((), "MODEL is missing"),
            (("flash", "--data", "TEXT", "--target", "onnx:cpu"), "onnx:cpu cannot train"),
            (("flash", "--data", "TEXT", "--steps", 0, "--clip", -1), "2 problems\n"),
            (("flash", "--data", "TEXT", "--batch", 2, "--tokens", 3), "give --batch or --tokens, not both"),
            (("flash", "--data", "TEXT", "-s", "vocab=300000"), "vocabulary of 300000"),
            (("flash", "--data", "TEXT", "--tokenizer", "bpe:x"), "bytes, bpe:N or a file"),
            (("flash", "--data", "nowhere.txt"), "nowhere.txt does not exist"),
            (
                ("flash", "--data", "TEXT", "--tokens", 1500),
                "recipe: tokens must be a multiple of seq_len, 1024, such as 1024",
            ),
            (
                ("flash", "--data", "TEXT", "--batch", 4, "--rows", 3),
                "rows must divide the 4 rows of a batch, as 2 does",
            ),
            (("flash", "--data", "SHORT"), "text to validate on: --valid"),
            (("--resume", "TEXT"), "not the folder of a run"),
            (("--resume", "FOLDER/nope"), "nope: there is no such folder\n--resume takes the folder that the run"),
            (("flash", "--resume", "TEXT", "--chunk", 4), "MODEL, --chunk cannot change when a run is resumed"),
            (("--resume", "RUN", "--policy", "fastest"), "--policy cannot change when a run is resumed"),
            (("flash", "--data", "TEXT", "-o", "FOLDER"), "already exists"),
        ],
    )
    def test_each_is_one_clear_message(
        self, cli: Cli, text: Path, tmp_path: Path, line: tuple[object, ...], message: str
    ) -> None:
        places = {"TEXT": text, "SHORT": tmp_path / "short.txt", "FOLDER": tmp_path, "FOLDER/nope": tmp_path / "nope"}
        places["SHORT"].write_text("a")
        assert message in cli.fails("train", *(places.get(str(word), word) for word in line))

    @pytest.mark.parametrize(("rank", "slept"), [("0", []), ("1", [GRACE_S])])
    def test_of_several_processes_one_that_nobody_ends_tells_it_in_the_end(
        self, cli: Cli, rank: str, slept: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found: list[float] = []
        monkeypatch.setattr("flashir.cli.train.sleep", found.append)
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert "MODEL is missing" in cli.fails("train")
        assert found == slept

    def test_a_flipped_bit_is_told_with_what_to_do(self, cli: Cli, data: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        cli.ok("train", *TINY, "--data", data, *SHORT, "-o", run)
        file = run / "checkpoints/step-000006/state/optimizer.safetensors"
        content = bytearray(file.read_bytes())
        content[-5] ^= 4
        file.write_bytes(content)
        told = cli.fails("train", "--resume", run)
        assert "optimizer.safetensors is damaged" in told and "resume from step-000004" in told
        assert "damaged" in cli.fails("export", run, "-o", tmp_path / "out")

    def test_an_exploding_loss_names_the_step_and_the_checkpoint(self, cli: Cli, data: Path, tmp_path: Path) -> None:
        line = (
            "train",
            *TINY,
            "--data",
            data,
            *SHORT[:-2],
            "--learning-rate",
            1e4,
            "--clip",
            0,
            "-o",
            tmp_path / "run",
        )
        told = cli(*line)
        assert told.exit_code == 2 and told.stdout == ""
        found = re.search(r"error: .*run: step (\d): .*\nthe last good checkpoint is .*step-00000(\d)\. ", told.stderr)
        assert found and int(found[2]) < int(found[1])
        flashir.load_checkpoint(tmp_path / "run/checkpoints" / f"step-00000{found[2]}")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_is_saved_and_goes_on(cli: Cli, data: Path, tmp_path: Path, number: int) -> None:
    run = tmp_path / "run"
    line = (
        "train",
        *TINY,
        "--data",
        data,
        "--batch",
        4,
        "--seq-len",
        32,
        "--steps",
        100_000,
        "--save-every",
        90_000,
        "-o",
        run,
        "--json",
    )
    with subprocess.Popen(
        (sys.executable, "-m", "flashir", *map(str, line)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as made:
        assert made.stderr is not None
        while b"step 1/" not in (told := made.stderr.readline()):
            assert told, "it ended by itself"
        made.send_signal(number)
        out, errors = made.communicate(timeout=120)
    assert made.returncode == 130, errors
    summary = json.loads(out)
    assert summary["complete"] is False and summary["steps"] == len(curve(run)) >= 1
    assert b"Traceback" not in errors and b"--resume" in errors
    assert flashir.load_checkpoint(summary["checkpoint"])
