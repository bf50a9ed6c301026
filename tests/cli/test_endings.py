"""Documents end with a token from training to every export, and texts that are written stop there."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.backends.registry import backend
from flashir.models.end_tokens import Reading
from flashir.models.tokenizer_file import ENDS, READING
from flashir.train.data import Tokenizer
from tests.cli.conftest import TINY, Cli
from tests.cli.test_generate import Scripted
from tests.train.data.test_endings import END, saved

pytest.importorskip("torch")
pytest.importorskip("tokenizers")
SHORT = ("--chunk", 16, "--batch", 2, "--seq-len", 16, "--steps", 2, "--save-every", 1, "--cumsum", "matmul")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.txt").write_text(f"{name} chunk divides local from global attention {END} " * 9)
    return folder


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """A tokenizer of 300 tokens, the first of which ends texts."""
    (tmp_path / "gpt2").mkdir()
    return saved(tmp_path / "gpt2", END)


class Marked(Scripted):
    """A decoder that writes given tokens, whatever it reads."""

    def __init__(self, *rows: list[int]) -> None:
        super().__init__()
        self.rows = rows

    def _logits(self, step: int) -> tuple[Any, Any]:
        rows = [np.eye(258, dtype=np.float32)[row[step] if step < len(row) else 0] for row in self.rows]
        return SimpleNamespace(step=step + 1, position=self.position), np.stack(rows)


def trained(cli: Cli, data: Path, out: Path, *options: object, model: Any = TINY) -> Path:
    cli.ok("train", *model, "--data", data, "--valid", data, *SHORT, *options, "-o", out)
    return out


def recipe(run: Path) -> str:
    return (run / "recipe.toml").read_text()


def losses(run: Path) -> list[Any]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


class TestTrain:
    def test_documents_end_with_the_end_of_the_tokenizer(
        self, cli: Cli, data: Path, gpt2: Path, tmp_path: Path
    ) -> None:
        run = trained(cli, data, tmp_path / "run", "--tokenizer", gpt2)
        assert f'document_end = "{END}"\n' in recipe(run) and "special_tokens = false\n" in recipe(run)
        assert flashir.load_checkpoint(run / "checkpoints/step-000002").reading == Reading(END)
        again = trained(cli, data, tmp_path / "again", "--recipe", run / "recipe.toml")
        assert losses(again) == losses(run)

    def test_none_is_none(self, cli: Cli, data: Path, gpt2: Path, tmp_path: Path) -> None:
        run = trained(cli, data, tmp_path / "run", "--tokenizer", gpt2, "--document-end", "none")
        assert 'document_end = "none"\n' in recipe(run)
        assert flashir.load_checkpoint(run / "checkpoints/step-000002").reading == Reading()

    @pytest.mark.parametrize(("word", "vocab"), [("bytes", 257), ("bpe:280", 280)])
    def test_own_tokenizers_are_given_one(self, cli: Cli, data: Path, tmp_path: Path, word: str, vocab: int) -> None:
        run = trained(cli, data, tmp_path / "run", "--tokenizer", word, "--document-end", "<end>")
        found = flashir.load_checkpoint(run / "checkpoints/step-000002")
        assert found.params["embed.weight"].shape[0] == vocab and found.reading == Reading("<end>")
        tokenizer = Tokenizer.read(run / "tokenizer.json")
        assert tokenizer.token("<end>") == tokenizer.vocab - 2

    def test_bytes_have_none_unless_it_is_asked_for(self, cli: Cli, data: Path, tmp_path: Path) -> None:
        run = trained(cli, data, tmp_path / "run")
        assert 'document_end = "none"\n' in recipe(run)
        assert Tokenizer.read(run / "tokenizer.json") == Tokenizer.bytes()

    def test_special_tokens_are_read_where_that_is_asked_for(
        self, cli: Cli, data: Path, gpt2: Path, tmp_path: Path
    ) -> None:
        run = trained(cli, data, tmp_path / "run", "--tokenizer", gpt2, "--special-tokens")
        assert flashir.load_checkpoint(run / "checkpoints/step-000002").reading == Reading(END, special_tokens=True)
        counts = [cli.json("eval", run, "--data", data, *given)["tokens"] for given in ((), ("--no-special-tokens",))]
        assert counts[0] < counts[1] / 1.5

    def test_a_run_goes_on_as_it_began(self, cli: Cli, data: Path, gpt2: Path, tmp_path: Path) -> None:
        run = trained(cli, data, tmp_path / "run", "--tokenizer", gpt2)
        whole = losses(run)
        (run / "checkpoints/step-000002").rename(tmp_path / "gone")
        assert cli.json("train", "--resume", run)["resumed_from"] == 1
        assert losses(run) == whole
        for option in (("--document-end", "none"), ("--special-tokens",)):
            assert f"{option[0]} cannot change" in cli.fails("train", "--resume", run, *option)

    def test_a_run_from_before_there_was_a_choice_goes_on_without(
        self, cli: Cli, data: Path, gpt2: Path, tmp_path: Path
    ) -> None:
        run = trained(cli, data, tmp_path / "run", "--tokenizer", gpt2, "--document-end", "none")
        whole = losses(run)
        (run / "checkpoints/step-000002").rename(tmp_path / "gone")
        lines = [line for line in recipe(run).splitlines() if not line.startswith(("document_end", "special_tokens"))]
        (run / "recipe.toml").write_text("\n".join(lines))
        folder = run / "checkpoints/step-000001"
        (folder / "reading.json").unlink()
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["sha256"]["reading.json"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        assert (
            cli.json("eval", run, "--data", data)["tokens"]
            == cli.json("eval", tmp_path / "gone", "--data", data)["tokens"]
        )
        assert cli.json("train", "--resume", run)["resumed_from"] == 1
        assert losses(run) == whole

    def test_another_run_from_a_checkpoint_reads_as_it_did(
        self, cli: Cli, data: Path, gpt2: Path, tmp_path: Path
    ) -> None:
        run = trained(cli, data, tmp_path / "run", "--tokenizer", gpt2, "--document-end", "none", "--special-tokens")
        tuned = trained(cli, data, tmp_path / "tuned", model=(run,))
        assert 'document_end = "none"\n' in recipe(tuned) and "special_tokens = true\n" in recipe(tuned)
        other = trained(cli, data, tmp_path / "other", "--document-end", END, "--no-special-tokens", model=(run,))
        assert f'document_end = "{END}"\n' in recipe(other) and "special_tokens = false\n" in recipe(other)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--tokenizer", "GPT2", "--document-end", "<eos>"), f"no token '<eos>'\nits special tokens are {END}"),
            (("--document-end", "a"), "that no other token has, got 'a'"),
            (("--document-end", ""), "document_end"),
            (("--tokenizer", "bpe:257", "--document-end", END), "at least 258"),
            (("-s", "vocab=256", "--document-end", END), "the tokenizer 258 ids, of which lm needs 257"),
        ],
    )
    def test_an_end_that_cannot_be_is_one_clear_message(
        self, cli: Cli, data: Path, gpt2: Path, tmp_path: Path, options: tuple[str, ...], said: str
    ) -> None:
        words = [str(gpt2) if word == "GPT2" else word for word in options]
        assert said in cli.fails("train", *TINY, "--data", data, *SHORT, *words, "-o", tmp_path / "run")
        assert not (tmp_path / "run").exists()


class TestEval:
    @pytest.fixture
    def blind(self, tmp_path: Path, gpt2: Path) -> Path:
        """A model that holds every token for as likely as any other, trained on documents that end with a token."""
        model = flashir.model("flash", size="tiny", chunk=16, vocab=300)
        params = {name: array * 0 for name, array in flashir.init(model).items()}
        return flashir.save_checkpoint(model, params, tmp_path / "blind", tokenizer=gpt2, reading=Reading(END))

    @pytest.mark.slow
    def test_ends_are_foreseen_as_in_training(self, cli: Cli, blind: Path, data: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        cli.ok("export", blind, "-o", out)
        for model in (blind, out):
            with_ends, without = (
                cli.json("eval", model, "--data", data, "--seq-len", 32, *given)["tokens"]
                for given in ((), ("--document-end", "none"))
            )
            assert with_ends == without + 2
        assert "no token '<eos>'" in cli.fails("eval", blind, "--data", data, "--document-end", "<eos>")

    def test_a_damaged_record_is_an_error(self, cli: Cli, blind: Path, data: Path) -> None:
        (blind / "reading.json").write_text('{"document_end": "<eos>", "special_tokens": false}')
        assert "reading.json is damaged" in cli.fails("eval", blind, "--data", data)


class TestExport:
    @pytest.mark.parametrize(
        "target", ["onnx:cpu", *(pytest.param(name, marks=pytest.mark.slow) for name in ("torch:cpu", "jax:cpu"))]
    )
    def test_metadata_name_the_ends(self, cli: Cli, gpt2: Path, tmp_path: Path, target: str) -> None:
        model = flashir.model("flash", size="tiny", chunk=16, vocab=300)
        (gpt2.parent / "generation_config.json").write_text('{"eos_token_id": [5, 0]}')
        made = flashir.export(model, tmp_path / "out", target, tokenizer=gpt2, reading=Reading(END))
        metadata = backend(target.partition(":")[0]).metadata(made.path)
        assert json.loads(metadata[ENDS]) == [0, 5]
        assert json.loads(metadata[READING]) == {"document_end": END, "special_tokens": False}

    def test_a_tokenizer_without_one_has_no_ends(self, cli: Cli, worded: Path, tmp_path: Path) -> None:
        cli.ok("export", worded, "-o", tmp_path / "out")
        metadata = backend("onnx").metadata(tmp_path / "out/model.onnx")
        assert not {ENDS, READING} & metadata.keys()

    def test_a_tokenizer_of_another_training_is_refused(
        self, cli: Cli, gpt2: Path, worded: Path, tmp_path: Path
    ) -> None:
        found = flashir.load_checkpoint(worded)
        other = flashir.save_checkpoint(found.model, found.params, tmp_path / "c", tokenizer=gpt2, reading=Reading(END))
        line = ("export", other, "--tokenizer", worded / "tokenizer.json", "-o", tmp_path / "out")
        assert f"documents ended with '{END}' in training, which this tokenizer does not have" in cli.fails(*line)
        assert not (tmp_path / "out").exists()


class TestGenerate:
    @pytest.fixture
    def model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A model of bytes that writes `one<end>more` and `longer<end>`, whatever it reads."""
        script = Marked([*b"one", 256, *b"more"], [*b"longer", 256])
        monkeypatch.setattr("flashir.generation.generate.decoder", lambda *_, **__: script)
        monkeypatch.setattr("flashir.generation.generate.restored", lambda *_, **__: script)
        model = flashir.model("flash", size="tiny", chunk=16, vocab=258)
        Tokenizer.bytes("<end>").save(tmp_path / "t.json")
        return flashir.save_checkpoint(
            model, flashir.init(model), tmp_path / "model", tokenizer=tmp_path / "t.json", reading=Reading("<end>")
        )

    def line(self, model: object, *options: object) -> tuple[object, ...]:
        return ("generate", model, "--prompt", "x", "--prompt", "y", "--tokens", 8, "--temperature", 0, *options)

    def rows(self, cli: Cli, *line: object) -> list[tuple[Any, ...]]:
        return [(row["text"], row["stop"], len(row["tokens"])) for row in cli.json(*line)["results"]]

    def test_a_text_ends_at_the_end_of_documents(self, cli: Cli, model: Path, tmp_path: Path) -> None:
        wanted = [("one", "end", 4), ("longer", "end", 7)]
        assert self.rows(cli, *self.line(model)) == wanted
        result = cli(*self.line(model))
        assert result.stdout == "==> x <==\none\n\n==> y <==\nlonger\n" and "11 tokens (end)" in result.stderr
        for options in ((), ("--decode",)):
            out = tmp_path / f"out{len(options)}"
            cli.ok("export", model, "-o", out)
            assert self.rows(cli, *self.line(out)) == wanted

    def test_it_may_go_on(self, cli: Cli, model: Path) -> None:
        assert self.rows(cli, *self.line(model, "--ignore-end")) == [
            ("one<end>more", "length", 8), ("longer<end>\0", "length", 8)
        ]  # fmt: skip

    def test_others_may_end_it(self, cli: Cli, model: Path) -> None:
        assert self.rows(cli, *self.line(model, "--end-token", "e", "--end-token", "<end>")) == [
            ("on", "end", 3), ("long", "end", 5)
        ]  # fmt: skip
        assert self.rows(cli, *self.line(model, "--stop", "ne")) == [("o", "stop", 3), ("longer", "end", 7)]

    def test_a_prompt_names_special_tokens_where_that_is_asked_for(self, cli: Cli, model: Path) -> None:
        line = ("generate", model, "--prompt", "<end>x", "--tokens", 0)
        assert cli.json(*line)["results"][0]["prompt_tokens"] == 6
        assert cli.json(*line, "--special-tokens")["results"][0]["prompt_tokens"] == 2

    def test_a_text_that_is_run_names_them_too(self, cli: Cli, model: Path, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_text("<end>x")
        line = ("run", model, "--text", tmp_path / "text.txt")
        assert [cli.json(*line, *more)["shape"][1] for more in ((), ("--special-tokens",))] == [6, 2]

    def test_mistakes_are_told(self, cli: Cli, model: Path, worded: Path) -> None:
        message = cli.fails(*self.line(model, "--end-token", "<eos>", "--end-token", "<stop>"))
        assert "no token '<eos>'" in message and "no token '<stop>'" in message and "2 problems" in message
        assert "give --end-token or --ignore-end, not both" in cli.fails(
            *self.line(model, "--end-token", "<end>", "--ignore-end")
        )
        assert "no token '</s>'\nit has no special tokens" in cli.fails(*self.line(worded, "--end-token", "</s>"))

    def test_a_configuration_beside_a_tokenizer_is_heeded(self, cli: Cli, model: Path, tmp_path: Path) -> None:
        (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "n"}')
        line = self.line(model, "--tokenizer", tmp_path / "t.json")
        assert self.rows(cli, *line)[0] == ("o", "end", 2)
        (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}')
        assert "tokenizer_config.json: its eos_token is '<eos>'" in cli.fails(*line)
        assert self.rows(cli, *line, "--ignore-end")[0][1] == "length"
