"""flashir generate: the tokens of the decoder, as text that comes bit by bit, ends where it should, and says why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.cli import console
from flashir.cli.rows import End, Pace, Row, Sheet
from flashir.files.foreign import read_bytes
from flashir.train.data import Tokenizer
from tests.cli.conftest import TINY, Cli

FIELDS = {
    "model", "target", "seed", "weights", "prompt_ms", "ms_per_token", "tokens_per_second", "resident_bytes", "results",
}  # fmt: skip
ROW_FIELDS = {"prompt", "prompt_tokens", "text", "tokens", "stop"}


class Scripted:
    """A decoder that writes given bytes, whatever it reads; after them it fails as told."""

    def __init__(self, *texts: str, fails: BaseException | None = None) -> None:
        self.texts, self.fails, self.limit = [text.encode() for text in texts], fails, None

    def start(self, prompts: Any) -> tuple[Any, Any]:
        self.position = np.array([len(row) for row in prompts])
        return self._logits(0)

    def extend(self, state: Any, ids: Any) -> tuple[Any, Any]:
        return self._logits(state.step)

    def _logits(self, step: int) -> tuple[Any, Any]:
        if self.fails is not None and step >= len(self.texts[0]):
            raise self.fails
        rows = [np.eye(256, dtype=np.float32)[text[step] if step < len(text) else 0] for text in self.texts]
        return SimpleNamespace(step=step + 1, position=self.position), np.stack(rows)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets any model write given texts."""

    def set_(*texts: str, fails: BaseException | None = None) -> None:
        monkeypatch.setattr("flashir.generation.generate.decoder", lambda *_, **__: Scripted(*texts, fails=fails))

    return set_


def greedy(*prompts: str) -> list[object]:
    return ["generate", *TINY, "--temperature", 0, *(word for text in prompts for word in ("--prompt", text))]


@pytest.mark.parametrize("target", ["onnx:cpu", "torch:cpu", pytest.param("jax:cpu", marks=pytest.mark.slow)])
def test_tokens_are_those_of_the_decoder(cli: Cli, checkpoint: Path, target: str) -> None:
    found = flashir.load_checkpoint(checkpoint)
    decoder = flashir.decoder(found.model, target, found.params)
    prompts = [list(b"It is a truth"), list("été".encode())]
    sampling = flashir.Sampling(0.7, 50, 0.9)
    wanted = np.stack([*flashir.generate(decoder, prompts, tokens=9, sampling=sampling, seed=5)], axis=1)
    asked = ("--tokens", 9, "--temperature", 0.7, "--top-k", 50, "--top-p", 0.9, "--seed", 5, "--target", target)
    made = cli.json("generate", checkpoint, "--prompt", "It is a truth", "--prompt", "été", *asked)
    assert set(made) == FIELDS and all(set(row) == ROW_FIELDS for row in made["results"])
    assert [row["tokens"] for row in made["results"]] == wanted.tolist()
    assert [row["text"] for row in made["results"]] == [Tokenizer.bytes().decode(row) for row in wanted]
    assert [(row["prompt"], row["prompt_tokens"], row["stop"]) for row in made["results"]] == [
        ("It is a truth", 13, "length"), ("été", 5, "length")
    ]  # fmt: skip
    assert made["ms_per_token"] > 0 and made["tokens_per_second"] > 0 and made["prompt_ms"] > 0


@pytest.mark.parametrize("options", [(), ("--decode",), pytest.param(("--target", "jax:cpu"), marks=pytest.mark.slow)])
def test_an_export_writes_what_its_checkpoint_does(cli: Cli, worded: Path, tmp_path: Path, options: Any) -> None:
    cli.ok("export", worded, *options, "-o", tmp_path / "out")
    target = options if "--target" in options else ()
    asked = ("--prompt", "The quick fox", "--tokens", 12, "--seed", 2, *target)
    one, other = (cli.json("generate", model, *asked)["results"] for model in (worded, tmp_path / "out"))
    assert one == other and len(one[0]["tokens"]) == 12
    tokenizer = Tokenizer.read(worded / "tokenizer.json")
    assert one[0]["prompt_tokens"] == len(tokenizer.encode("The quick fox")) < 13
    assert one[0]["text"] == tokenizer.decode(one[0]["tokens"])


def test_a_text_is_written_and_its_pace_told(cli: Cli, writes: Any) -> None:
    writes("universally ")
    result = cli(*greedy("a truth"), "--tokens", 12)
    assert (result.exit_code, result.stdout) == (0, "universally \n")
    assert "random weights: the output is meaningless" in result.stderr
    assert "12 tokens (length)" in result.stderr and "tokens/s" in result.stderr and "prompt read in" in result.stderr
    if sys.platform == "linux":
        assert "resident" in result.stderr


def test_rows_are_written_one_below_the_other(cli: Cli, writes: Any) -> None:
    writes("one\n", "two ", "3   ")
    shown = cli.ok(*greedy("a", "b\nc", "d" * 80), "--tokens", 4)
    assert shown == f"==> a <==\none\n\n==> b c <==\ntwo \n\n==> {'d' * 59}… <==\n3   \n"


def test_a_string_ends_its_row_and_the_others_go_on(cli: Cli, writes: Any) -> None:
    writes("ab.\n\ncdefgh", "no such strings", "\n.............")
    made = cli.json(*greedy("x", "y", "z"), "--tokens", 12, "--stop", "\n\n", "--stop", ".")
    assert [(row["text"], row["stop"], len(row["tokens"])) for row in made["results"]] == [
        ("ab", "stop", 3), ("no such stri", "length", 12), ("\n", "stop", 2)
    ]  # fmt: skip
    assert cli.ok(*greedy("x", "y", "z"), "--tokens", 12, "--stop", ".").startswith("==> x <==\nab\n\n==> y")


def test_it_ends_when_every_row_has(cli: Cli, writes: Any) -> None:
    writes("a.", ".", fails=AssertionError("asked for more"))
    assert [row["text"] for row in cli.json(*greedy("x", "y"), "--stop", ".")["results"]] == ["a", ""]


def test_no_token_is_no_text(cli: Cli) -> None:
    made = cli.json(*greedy("x"), "--tokens", 0)
    assert made["results"][0]["text"] == "" and made["results"][0]["stop"] == "length"
    assert made["ms_per_token"] is None and made["tokens_per_second"] is None


def test_a_text_that_fills_the_model_ends(cli: Cli) -> None:
    made = cli.json("generate", "transformer", "--size", "tiny", "-s", "max_len=6", "--prompt", "four")
    assert (made["results"][0]["stop"], len(made["results"][0]["tokens"])) == ("limit", 3)
    made = cli.json("generate", "transformer++", "--size", "tiny", "--prompt", "four", "--max-len", 5)
    assert (made["results"][0]["stop"], len(made["results"][0]["tokens"])) == ("limit", 2)
    made = cli.json("generate", "transformer++", "--size", "tiny", "--prompt", "four", "--tokens", 9)
    assert made["results"][0]["stop"] == "length"


@pytest.mark.slow
def test_a_model_that_divides_by_the_length_is_told_one(cli: Cli) -> None:
    line = ("generate", "flash-quad", "--size", "tiny", "--prompt", "four", "--tokens", 6, "--temperature", 0)
    model = flashir.model("flash-quad", size="tiny")
    for options, length in (((), 10), (("--length", 500), 500)):
        decoder = flashir.decoder(model, params=flashir.init(model), max_len=10, length=length)
        wanted = [int(row[0]) for row in flashir.generate(decoder, [list(b"four")], tokens=6)]
        assert cli.json(*line, *options)["results"][0]["tokens"] == wanted


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupt_ends_with_what_was_written(cli: Cli, writes: Any, as_json: bool) -> None:
    writes("été", fails=KeyboardInterrupt())
    result = cli(*greedy("x"), *(("--json",) if as_json else ()))
    assert result.exit_code == 130
    if as_json:
        (row,) = json.loads(result.stdout)["results"]
        assert (row["text"], row["stop"], len(row["tokens"])) == ("été", "interrupted", 5)
    else:
        assert result.stdout == "été\n" and "5 tokens (interrupted)" in result.stderr


def test_an_error_on_the_way_leaves_what_was_written(cli: Cli, writes: Any) -> None:
    writes("ab", fails=flashir.FlashirError("broke"))
    result = cli(*greedy("x"))
    assert (result.exit_code, result.stdout) == (2, "ab\n")
    assert result.stderr.endswith("error: broke\n")


class TestPrompts:
    def test_a_file_is_a_prompt_without_its_last_line_break(self, cli: Cli, tmp_path: Path) -> None:
        for content in (b"one\ntwo\n", b"one\ntwo", b"one\ntwo\r\n"):
            (tmp_path / "p.txt").write_bytes(content)
            made = cli.json(*greedy("zero"), "--prompt-file", tmp_path / "p.txt", "--tokens", 1)
            assert [row["prompt"] for row in made["results"]] == ["zero", "one\ntwo"]

    def test_the_same_prompt_twice_is_two_rows(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "p.txt").write_text("one")
        file = ("--prompt-file", tmp_path / "p.txt")
        made = cli.json("generate", *TINY, *file, *file, "--prompt", "one", "--prompt", "one", "--tokens", 8)
        assert len({tuple(row["tokens"]) for row in made["results"]}) == 4

    def test_without_one_it_is_standard_input(self, cli: Cli) -> None:
        made = cli.json("generate", *TINY, "--tokens", 1, input="été\n")
        assert [row["prompt"] for row in made["results"]] == ["été"]
        assert "standard input is empty" in cli.fails("generate", *TINY, input="")

    def test_a_prompt_is_one_document(self, cli: Cli) -> None:
        line = ("generate", *TINY, "--prompt", "one", "--tokens", 4, "--temperature", 0)
        assert cli.json(*line, "-s", "segments=true")["results"] == cli.json(*line)["results"]
        assert "standard input is not UTF-8 text: see byte 1" in cli.fails("generate", *TINY, input=b"a\xff")

    def test_on_a_terminal_nothing_is_waited_for(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        from flashir.cli.generate import _prompts

        monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
        with pytest.raises(flashir.FlashirError, match="there is no prompt\ngive --prompt TEXT"):
            _prompts((), ())


class TestMistakes:
    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ((*TINY, "--prompt", ""), "prompt 1 is empty"),
            ((*TINY, "--prompt", "a\udcff"), "prompt 1 is not UTF-8 text"),
            ((*TINY, "--prompt-file", "NOWHERE"), "cannot be read: No such file"),
            ((*TINY, "--prompt-file", "LATIN"), "is not UTF-8 text: see byte 1"),
            ((*TINY, "--prompt", "x", "--stop", ""), "a string to stop at cannot be empty"),
            ((*TINY, "--prompt", "x", "--temperature", -1), "temperature must be at least 0"),
            ((*TINY, "--prompt", "x", "--seed", -1), "seed must lie in"),
            ((*TINY, "--task", "mlm", "--prompt", "x"), "is bidirectional"),
            ((*TINY, "-s", "vocab=300", "--prompt", "x"), "vocabulary of 300 is not that of bytes\n--tokenizer FILE"),
            (
                ("transformer", "--size", "tiny", "-s", "max_len=4", "--prompt", "12345"),
                "5 tokens, the model can hold 4",
            ),
            (("transformer++", "--size", "tiny", "--prompt", "12345", "--max-len", 4), "5 tokens, --max-len is 4"),
            ((*TINY, "--prompt", "x", "--target", "onnx:gpu"), "unknown target"),
            (("flsh", "--prompt", "x"), "did you mean 'flash'"),
        ],
    )
    def test_each_is_one_clear_message(self, cli: Cli, tmp_path: Path, line: tuple[object, ...], said: str) -> None:
        (tmp_path / "latin.txt").write_bytes("tété".encode("latin-1"))
        places = {"NOWHERE": tmp_path / "nowhere.txt", "LATIN": tmp_path / "latin.txt"}
        words = [places.get(str(word), word) for word in line]
        message = cli.fails("generate", *words)
        assert said in message
        assert cli.fails("generate", *words, "--json") == message

    def test_all_are_told_at_once(self, cli: Cli, tmp_path: Path) -> None:
        files = ("--prompt-file", tmp_path / "no.txt", "--prompt", "", "--stop", "")
        numbers = ("--tokens", -1, "--max-len", 0, "--length", 0, "--temperature", -1, "--top-k", 0, "--top-p", 2)
        model = ("--task", "mlm", "-s", "vocab=300")
        message = cli.fails("generate", *TINY, *model, *files, *numbers, "--seed", -1)
        assert message.startswith("error: 12 problems\n") and message.endswith("\n")
        assert "--tokenizer FILE" in message.splitlines()[-1]

    def test_an_export_has_its_choices_made(self, cli: Cli, artefact: Path) -> None:
        line = ("generate", artefact, "--prompt", "x", "--dtype", "float16", "--params", "p.safetensors")
        assert "--params, --dtype cannot be set" in cli.fails(*line)
        assert "an artefact of onnx runs on onnx" in cli.fails("generate", artefact, "--target", "torch:cpu")

    def test_a_decoder_holds_what_it_was_exported_for(self, cli: Cli, tmp_path: Path) -> None:
        cli.ok("export", "transformer++", "--size", "tiny", "--decode", "--max-len", 6, "-o", tmp_path)
        assert cli.json("generate", tmp_path, "--prompt", "four")["results"][0]["stop"] == "limit"
        assert "7 tokens, this decoder can hold 6" in cli.fails("generate", tmp_path, "--prompt", "seven..")
        assert "fixed at export" in cli.fails("generate", tmp_path, "--prompt", "x", "--max-len", 5)

    def test_a_prompt_without_tokens(self, cli: Cli, tmp_path: Path) -> None:
        tokenizers = pytest.importorskip("tokenizers")
        made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
        made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        made.save(str(tmp_path / "t.json"))
        line = ("generate", *TINY, "-s", "vocab=3", "--tokenizer", tmp_path / "t.json", "--prompt", " ")
        assert "prompt 1 has no tokens" in cli.fails(*line)


class TestSheet:
    @pytest.fixture
    def told(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        told: list[str] = []
        monkeypatch.setattr(console, "stream", told.append)
        monkeypatch.setattr(console, "say", lambda text, style=None: told.append(f"{text}\n"))
        return told

    def rows(self, *prompts: str) -> list[Row]:
        return [Row(prompt, list(prompt.encode()), Tokenizer.bytes(), ["end"]) for prompt in prompts]

    def test_characters_come_whole_and_stop_strings_not_at_all(self, told: list[str]) -> None:
        rows = self.rows("x")
        sheet = Sheet(rows)
        for byte in "é.send!".encode():
            rows[0].add(byte)
            sheet.update()
        assert [piece for piece in told if piece] == ["é", ".", "s", "\n"]
        assert rows[0].ended is End.STOP and len(rows[0].tokens) == len("é.send".encode())

    def test_what_was_held_back_comes_at_the_end(self, told: list[str]) -> None:
        rows = self.rows("x")
        sheet = Sheet(rows)
        for byte in b"the en\xe2":
            rows[0].add(byte)
        sheet.update()
        rows[0].end(End.LENGTH)
        sheet.update()
        assert [piece for piece in told if piece] == ["the ", "en\N{REPLACEMENT CHARACTER}", "\n"]

    def test_the_first_that_goes_on_is_shown(self, told: list[str]) -> None:
        rows = self.rows("a", "b", "c")
        sheet = Sheet(rows)
        steps = ["1xz", "2y ", "end"]
        for step in steps:
            for row, text in zip(rows, step, strict=True):
                for byte in text.encode():
                    row.add(byte)
            sheet.update()
        assert "".join(told) == "==> a <==\n12"
        rows[1].end(End.LENGTH)
        sheet.update()
        assert "".join(told) == "==> a <==\n12"
        rows[0].end(End.LENGTH)
        sheet.update()
        assert "".join(told) == "==> a <==\n12e\n\n==> b <==\nxyn\n\n==> c <==\nz d"


def test_the_pace_leaves_out_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.5, 0.5, 9.0, 9.1, 9.2, 9.3])
    monkeypatch.setattr("flashir.cli.rows.perf_counter", lambda: next(clock))
    pace = Pace()
    pace.read()
    for count in (2, 2, 2, 1, 1):
        pace.tick(count)
    found = pace.as_dict()
    assert found["prompt_ms"] == pytest.approx(500) and found["ms_per_token"] == pytest.approx(100)
    assert found["tokens_per_second"] == pytest.approx(4 / 0.3)
    assert pace.facts() == ["13.33 tokens/s", "100 ms a token", "prompt read in 500 ms"]


@pytest.mark.parametrize(
    ("terminal", "shown"), [(True, "a\N{REPLACEMENT CHARACTER}[2J\n\té?"), (False, "a\x1b[2J\n\té?")]
)
def test_a_terminal_is_not_controlled(monkeypatch: pytest.MonkeyPatch, terminal: bool, shown: str) -> None:
    told: list[str] = []
    out = SimpleNamespace(isatty=lambda: terminal, encoding="latin-1", write=told.append, flush=lambda: None)
    monkeypatch.setattr("sys.stdout", out)
    console.stream("a\x1b[2J\n\té東")
    assert told == [shown.replace("\N{REPLACEMENT CHARACTER}", "?")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_ctrl_c_ends_a_process_with_what_it_wrote() -> None:
    line = (sys.executable, "-m", "flashir", "generate", *TINY, "--prompt", "x", "--tokens", "1000000000")
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as made:
        assert made.stdout is not None
        first = os.read(made.stdout.fileno(), 1)
        made.send_signal(signal.SIGINT)
        rest, errors = made.communicate(timeout=60)
    assert made.returncode == 130 and first and rest.endswith(b"\n")
    assert b"(interrupted)" in errors and b"Traceback" not in errors


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such pipes")
def test_a_reader_that_goes_away_ends_it() -> None:
    line = (sys.executable, "-m", "flashir", "generate", *TINY, "--prompt", "x", "--tokens", "1000000000")
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as made:
        assert made.stdout is not None and made.stderr is not None
        os.read(made.stdout.fileno(), 1)
        made.stdout.close()
        errors = made.stderr.read()
        made.wait(timeout=60)
    assert made.returncode in (1, 141) and b"Traceback" not in errors


@pytest.mark.skipif(sys.platform == "win32", reason="no such devices")
def test_a_prompt_that_does_not_end_is_refused(
    cli: Cli, artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_bytes, "__kwdefaults__", {**(read_bytes.__kwdefaults__ or {}), "largest": 1000})
    os.mkfifo(tmp_path / "pipe")  # nobody writes to it
    line = ("generate", artefact, "--prompt-file", "/dev/zero", "--prompt-file", tmp_path / "pipe")
    message = cli.fails(*line)
    assert "/dev/zero: cannot be read: it has more than 1,000 bytes" in message and "pipe is empty" in message


def test_a_further_prompt_continues_the_text_before_it(cli: Cli, checkpoint: Path) -> None:
    asked = ("--temperature", 0, "--tokens", 6, "--prompt", "Emma", "--then", "Anne")
    first, second = cli.json("generate", checkpoint, *asked)["results"]
    assert (first["prompt"], second["prompt"], second["prompt_tokens"]) == ("Emma", "Anne", 4)
    found = flashir.load_checkpoint(checkpoint)
    texts = flashir.generate(flashir.decoder(found.model, params=found.params), [list(b"Emma")], tokens=6)
    assert [int(row[0]) for row in texts] == first["tokens"]
    assert [int(row[0]) for row in texts.then([list(b"Anne")], tokens=6)] == second["tokens"]


def test_further_prompts_that_are_wrong_are_told(cli: Cli) -> None:
    said = cli.fails("generate", *TINY, "--prompt", "a", "--prompt", "b", "--then", "", "--then", "c")
    assert "--then 1 is empty" in said and "--then continues one text, and there are 2 prompts" in said
