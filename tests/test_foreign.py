"""The way in for files of others: bounded, and whatever goes wrong is one error that names the file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashir.errors import ArtefactError, FlashirError, InputError, shortened
from flashir.files.foreign import (
    DEEPEST,
    LONGEST_NUMBER,
    guarded,
    opened,
    parse_json,
    parse_toml,
    read_bytes,
    read_text,
)


class Panic(BaseException):
    """As pyo3 raises where a Rust library panics: no Exception."""


RAISED: list[BaseException] = [
    ValueError("a\nb"), KeyError("x"), MemoryError(), RecursionError(), Panic("called `Option::unwrap()`"),
    OSError(5, "Input/output error"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), AssertionError(),
    SystemError("x"),
]  # fmt: skip


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_a_parser_raises_becomes_one_error(error: BaseException) -> None:
    with pytest.raises(ArtefactError) as caught, guarded("a.bin", ArtefactError, "cannot be read", "get another"):
        raise error
    assert caught.value.where == "a.bin"
    assert caught.value.hint == "get another"
    assert caught.value.problems[0].startswith("cannot be read: ")
    assert "\n" not in caught.value.problems[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), InputError("mine")])
def test_what_ends_the_program_passes_and_so_does_an_error_of_flashir(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, guarded("a.bin", ArtefactError, "cannot be read"):
        raise error
    assert caught.value is error


def test_a_long_reason_is_cut() -> None:
    with pytest.raises(InputError) as caught, guarded("f", InputError, "no"):
        raise ValueError("x" * 10_000)
    assert len(caught.value.message) < 1000


def loop(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo")
    return folder / "fifo"


UNREADABLE: dict[str, Callable[[Path], Path | str]] = {
    "missing": lambda folder: folder / "none",
    "a folder": lambda folder: folder,
    "a loop": loop,
    "below a file": lambda folder: Path(__file__) / "x",
    "a long name": lambda folder: folder / ("x" * 5000),
    "a zero in its name": lambda folder: f"{folder}/a\0b",
    "a surrogate in its name": lambda folder: f"{folder}/\ud800",
    "an empty name": lambda folder: "",
    "a pipe": fifo,
    "a device": lambda folder: Path("/dev/zero"),
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.skipif(sys.platform == "win32", reason="files of Unix")
def test_what_is_no_file_is_an_error_at_once(name: str, tmp_path: Path) -> None:
    path = UNREADABLE[name](tmp_path)
    with pytest.raises(InputError) as caught:
        read_bytes(path, InputError, problem="cannot read the model")
    assert caught.value.where == shortened(str(path))
    assert caught.value.problems[0].startswith("cannot read the model: ")


@pytest.mark.skipif(sys.platform == "win32", reason="files of Unix")
def test_a_stream_is_read_where_it_is_wanted_and_nobody_waits_for_a_writer(tmp_path: Path) -> None:
    path = fifo(tmp_path)
    assert read_bytes(path, InputError, streams=True) == b""
    script = f"import time; f = open({str(path)!r}, 'w'); f.write('abc'); f.flush(); time.sleep(0.3); f.write('def')"
    with opened(path, InputError, streams=True):  # so that the writer does not wait
        writer = subprocess.Popen([sys.executable, "-c", script])
        time.sleep(0.1)
    end = time.monotonic() + 20
    content = b""
    while time.monotonic() < end and not content:
        content = read_bytes(path, InputError, streams=True)
    writer.wait()
    assert content == b"abcdef"
    with pytest.raises(InputError, match=r"more than 1,000 bytes"):
        read_bytes("/dev/zero", InputError, largest=1000, streams=True)


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    assert read_bytes(path, InputError, largest=5) == b"12345"
    with pytest.raises(InputError, match="more than 4 bytes"):
        read_bytes(path, InputError, largest=4)


def test_text_is_utf8_and_its_lines_end_in_one_way(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes("a\r\nb\rcé\n".encode())
    assert read_text(path, InputError) == "a\nb\ncé\n"
    path.write_bytes(b"ab\xff")
    with pytest.raises(InputError, match="not UTF-8 text, see byte 2"):
        read_text(path, InputError)


JSON = {
    "deep lists": "[" * 200_000,
    "deep lists that end": "[" * 100 + "]" * 100,
    "deep objects": '{"a":' * 200_000,
    "digits": "1" * 6000,
    "digits below the limit of int": "1" * 4000,
    "nothing": "",
    "a text": "hello",
    "half": '{"a": ',
    "not a number": "NaN",
    "too large": "1e999",
    "no text": b"\xff\xfe",
    "a zero": b"\0",
    "quotes without end": '\\"' * 100_000,
    "a lone surrogate": '"\\ud800"',
}


@pytest.mark.parametrize("content", JSON.values(), ids=JSON)
@pytest.mark.parametrize("shape", [object, dict[str, str], dict[str, int]])
def test_json_of_any_kind_is_an_error_that_names_the_file(content: str | bytes, shape: Any) -> None:
    with pytest.raises(ArtefactError) as caught:
        parse_json(content, "m.json", ArtefactError, shape)
    assert caught.value.where == "m.json"
    assert len(caught.value.message) < 1000


def test_json_has_the_shape_that_is_wanted() -> None:
    assert parse_json('{"a": "b"}', "m.json", InputError, dict[str, str]) == {"a": "b"}
    for wrong in ("[]", "3", "null", '"abc"', '{"a": {"b": 1}}'):
        with pytest.raises(InputError, match="wanted"):
            parse_json(wrong, "m.json", InputError, dict[str, str])


def test_brackets_and_digits_in_strings_do_not_count() -> None:
    text = "[" * 1000 + "1" * 1000 + '\\"' + "{" * 1000
    assert parse_json(f'["{text}"]', "m", InputError, object) == [text.replace("\\", "")]
    assert parse_toml(f"a = '{text}' # {text}", "m", InputError) == {"a": text}
    assert parse_toml(f'a = """\n{text}"""', "m", InputError)
    nested = "[" * DEEPEST + "1" * LONGEST_NUMBER + "]" * DEEPEST
    assert parse_json(nested.replace("1", ""), "m", InputError, object)
    assert parse_toml(f"a = {nested[:-1]}]".replace("[", "", 1)[:-1], "m", InputError)


TOML = {
    "deep lists": "data = " + "[" * 3000 + "]" * 3000,
    "deep tables": "a = " + "{b=" * 3000 + "1" + "}" * 3000,
    "digits": "steps = " + "9" * 5000,
    "digits below the limit of int": "steps = " + "9" * 4000,
    "digits apart": "steps = " + "9_" * 3000 + "9",
    "hexadecimal digits": "steps = 0x" + "f" * 100_000,
    "a key of many parts": "a" + ".a" * 50_000 + " = 1",
    "a quoted key of many parts": '"a"' + ' . "a"' * 50_000 + " = 1",
    "a table of many parts": "[a" + ".a" * 50_000 + "]",
    "no text": b"\xff\xfe",
    "a zero": b"a = '\0'",
    "twice": "a = 1\na = 2",
    "quotes": '"' * 300_000,
    "a string without end": 'a = """' + "x" * 100_000,
}


@pytest.mark.parametrize("content", TOML.values(), ids=TOML)
def test_toml_of_any_kind_is_an_error_that_names_the_file(content: str | bytes) -> None:
    began = time.process_time()
    with pytest.raises(InputError) as caught:
        parse_toml(content, "r.toml", InputError)
    assert caught.value.where == "r.toml"
    assert time.process_time() - began < 5


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_an_interrupt_while_a_file_is_read_is_one() -> None:
    previous = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), guarded("f", FlashirError, "no"):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, previous)
