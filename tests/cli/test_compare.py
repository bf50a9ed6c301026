"""flashir compare: mistakes are one message, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give --task NAME or --data PATH"),
        (("--task", "recall", "--data", "x"), "give --task NAME or --data PATH"),
        (("--task", "recall", "--tokenizer", "bpe:300"), "require --data"),
        (("--data", "x", "--items", "9"), "--items requires --task"),
        (("--task", "recall", "--items", "9"), "need 27 tokens of a chunk"),
        (("--task", "bag", "-s", "vocab=5"), "vocabulary of at least"),
        (("--task", "recall", "--system", "flsh"), "did you mean 'flash'"),
        (("--task", "recall", "--learning-rate", "flsh=1"), "'flsh' is not compared; did you mean 'flash'"),
        (("--task", "recall", "--learning-rate", "-1"), "must be a number above 0"),
        (("--task", "recall", "-s", "dpeth=3"), "no system has the setting dpeth=3"),
        (("--task", "recall", "-s", "depth=x", "-s", "vocab=0"), "2 problems"),
        (("--task", "recall", "--batch", "6", "--rows", "4"), "rows must divide the 6 rows"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_message(
    cli: Cli, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    out = tmp_path / "out"
    assert said in cli.fails("compare", *arguments, "-o", out)
    assert not out.exists()


def test_a_vocabulary_that_is_too_small_for_a_text_is_refused_before_anything_is_written(
    cli: Cli, tmp_path: Path
) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text("call me Ishmael " * 100)
    said = cli.fails("compare", "--data", text, "--seq-len", "64", "-s", "vocab=100", "-o", out)
    assert "a vocabulary of 100" in said and "vocab=257" in said
    assert "no system has the setting dpeth" in cli.fails("compare", "--data", text, "-s", "dpeth=3", "-o", out)
    assert not out.exists()
