"""A tokenizer.json that flashir wrote carries its digest, and the library reads it all the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flashir.errors import InputError
from flashir.train.data import Tokenizer
from flashir.train.data.sealed_text import KEY, with_digest, without_digest


@pytest.fixture
def file(tmp_path: Path) -> Path:
    Tokenizer.bytes("<end>").save(tmp_path / "tokenizer.json")
    return tmp_path / "tokenizer.json"


def test_it_is_written_and_read_as_the_same_tokenizer(file: Path) -> None:
    assert KEY in json.loads(file.read_text())["decoder"]
    found = Tokenizer.read(file)
    assert found == Tokenizer.bytes("<end>") and found.digest == Tokenizer.bytes("<end>").digest and found.is_bytes


def test_the_library_reads_it(file: Path) -> None:
    library = pytest.importorskip("tokenizers").Tokenizer.from_file(str(file))
    assert library.encode("hé").ids == list("hé".encode()) and library.decode([104, 105]) == "hi"


def test_a_change_is_told_and_how_to_keep_it(file: Path) -> None:
    text = file.read_text()
    for changed in (text.replace('"a": 97', '"a": 98'), text.replace(KEY, KEY[:-1] + "7"), text + "\n"):
        file.write_text(changed)
        with pytest.raises(InputError, match=f"is damaged, or was changed[\\s\\S]*remove the entry '{KEY}'") as raised:
            Tokenizer.read(file)
        assert str(file) in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"decoder": null}',
        '{"decoder": {"type": "WordPiece"}}',
        '{"decoder": {"type": "Sequence", "decoders": [{"type": "ByteLevel"}]}}',
        '{"a": {"decoder": {"type": "ByteLevel"}}, "decoder": {"type": "ByteLevel"}}',
    ],
)
def test_a_text_without_one_place_for_it_stays_as_it_is(text: str) -> None:
    assert with_digest(text) == text == without_digest(text, Path("t"))


@pytest.mark.parametrize("space", ["", " ", "\n  "])
def test_it_is_taken_off_exactly(space: str) -> None:
    text = f'{{"decoder"{space}:{space}{{{space}"type": "ByteLevel"}}}}'
    assert with_digest(text) != text and json.loads(with_digest(text))["decoder"]["type"] == "ByteLevel"
    assert without_digest(with_digest(text), Path("t")) == text
