"""Tokenizers from strangers: what the library cannot use is one error that names the file, in little time."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from flashir.errors import FlashirError, InputError
from flashir.train.data import Tokenizer
from flashir.train.data.spelling import Spelling
from tests.hostile.tokenizer_files import AT_READING, AT_USE, FILES

SECONDS = 15
TEXT = "hello  w\u00f6rld " + "a" * 60 + "! \u4f60\U0001f600\n[UNK] q"


def use(path: Path) -> None:
    tokenizer = Tokenizer.read(path)
    assert tokenizer.mask < tokenizer.vocab < 200_000
    ids = tokenizer.encode(TEXT)
    tokenizer.decode(ids)
    spelling = Spelling(tokenizer)
    for token in (*ids[:20], tokenizer.vocab - 1):
        spelling.add(int(token))
    spelling.end()


@pytest.mark.parametrize("name", FILES)
def test_it_is_used_or_refused_by_its_name(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text, end = FILES[name]
    path = tmp_path / "tokenizer.json"
    path.write_text(text, encoding="utf-8")
    began = time.process_time()
    error: FlashirError | None = None
    try:
        use(path)
    except FlashirError as found:
        error = found
    assert time.process_time() - began < SECONDS
    assert capfd.readouterr().err == ""
    assert (error is not None) == (end in (AT_READING, AT_USE)), error
    if error is not None:
        assert str(path) in str(error) and len(str(error)) < 2000
    if end == AT_READING:
        with pytest.raises(InputError):
            Tokenizer.read(path)


def test_what_others_write_to_stderr_meanwhile_comes_after() -> None:
    """A panic is left out, all else is kept, and stderr is itself again."""
    code = """
import os, sys
from flashir.errors import InputError
from flashir.train.data.guarded import guarded_library
with guarded_library(None, "no"):
    os.write(2, b"one ")
try:
    with guarded_library(None, "no"):
        os.write(2, b"panic ")
        raise type("PanicException", (BaseException,), {})("index")
except InputError as error:
    print(error.problems[0])
try:
    with guarded_library(None, "no"):
        os.write(2, b"two ")
        raise ValueError("x")
except InputError:
    os.write(2, b"three")
os.close(2)
with guarded_library(None, "no"):
    print("no stderr")
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert made.stderr == "one two three"
    assert made.stdout.splitlines() == ["no: its parser gave up: index", "no stderr"]


def test_a_gap_between_ids_is_fine(tmp_path: Path) -> None:
    """Files of others number their added tokens from a round number, or leave some out."""
    from tests.hostile.tokenizer_files import changed

    path = tmp_path / "tokenizer.json"
    path.write_text(changed("model", "vocab", "zz", to=60_000))
    assert Tokenizer.read(path).vocab == 60_001
