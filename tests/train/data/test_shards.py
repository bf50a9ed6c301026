"""Shards: tokens are made once, whole or not at all, in little memory."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashir.errors import ArtefactError, InputError
from flashir.files.atomic import UNFINISHED
from flashir.train.data import Corpus, Tokenizer, documents, prepare
from tests.train.data.support import texts, write
from tests.train.data.test_tokenizer import TRAINED, another

MIB = 1 << 20


class Counting(Tokenizer):
    """Bytes that count the texts they encode."""

    count = 0

    def encode_each(self, texts: list[str]) -> list[np.ndarray]:
        Counting.count += len(texts)
        return Tokenizer.bytes().encode_each(texts)


@pytest.fixture
def counting() -> Tokenizer:
    Counting.count = 0
    return Counting(Tokenizer.bytes().text)


def content(corpus: Corpus) -> list[str]:
    return [corpus.tokenizer.decode(span.tokens) for span in corpus.spans]


@pytest.mark.parametrize("tokenizer", [Tokenizer.bytes(), TRAINED], ids=["bytes", "trained"])
@given(contents=st.lists(texts(), min_size=1, max_size=6), size=st.sampled_from([1, 50, 1000]))
def test_every_document_is_in_the_corpus(tokenizer: Tokenizer, contents: list[str], size: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("flashir.train.data.shards.SHARD", size)
        write(Path(folder), **{str(number): text for number, text in enumerate(contents)})
        for _ in range(2):
            corpus = prepare([folder], tokenizer, Path(folder) / "cache")
            assert content(corpus) == contents
            assert [span.digest for span in corpus.spans] == [each.digest for each in documents([folder])]


def test_what_was_tokenised_before_is_not_again(tmp_path: Path, counting: Tokenizer) -> None:
    first = prepare([write(tmp_path, a="one", b="two")], counting, tmp_path / "cache")
    assert counting.count == 2
    again = prepare([tmp_path], counting, tmp_path / "cache")
    assert counting.count == 2
    assert again.digest == first.digest


def test_another_text_or_tokenizer_is_another_shard(tmp_path: Path, counting: Tokenizer) -> None:
    first = prepare([write(tmp_path, a="one")], counting, tmp_path / "cache")
    second = prepare([write(tmp_path, a="two")], counting, tmp_path / "cache")
    assert (counting.count, content(second)) == (2, ["two"])
    third = prepare([tmp_path], TRAINED, tmp_path / "cache")
    assert content(third) == ["two"]
    assert len({first.digest, second.digest, third.digest}) == 3


def test_a_full_shard_is_kept_when_the_next_one_fails(
    tmp_path: Path, counting: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flashir.train.data.shards.SHARD", 1)
    write(tmp_path, a="one", b="two")

    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("tokenising", total):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([tmp_path], counting, tmp_path / "cache", stop)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.endswith(UNFINISHED)]
    assert content(prepare([tmp_path], counting, tmp_path / "cache")) == ["one", "two"]
    assert counting.count == 3


@pytest.mark.parametrize("suffix", ["ids", "json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_shard_is_made_anew(tmp_path: Path, counting: Tokenizer, suffix: str, damage: str) -> None:
    prepare([write(tmp_path, a="one text")], counting, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob(f"*.{suffix}")
    good = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(good[:-1] if damage == "cut" else bytes([good[0] ^ 1]) + good[1:])
    assert content(prepare([tmp_path], counting, tmp_path / "cache")) == ["one text"]
    assert path.read_bytes() == good


def test_a_text_that_changes_on_the_way_leaves_no_shard(tmp_path: Path) -> None:
    write(tmp_path, a="one")
    with pytest.raises(InputError, match="has changed"):
        prepare([tmp_path], Tokenizer.bytes(), tmp_path / "cache", lambda *_: write(tmp_path, a="two") and None)
    assert not list((tmp_path / "cache").glob("*.json"))
    assert not list((tmp_path / "cache").glob("*.ids"))


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, a="one")
    with pytest.raises(ArtefactError, match="cannot write"):
        prepare([tmp_path], Tokenizer.bytes(), tmp_path / "a.txt" / "cache")


def test_the_cache_of_the_user_is_where_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHIR_CACHE", str(tmp_path / "mine"))
    prepare([write(tmp_path / "texts", a="one")], Tokenizer.bytes())
    assert len(list((tmp_path / "mine" / "tokens").iterdir())) == 2


def test_a_text_without_tokens_is_an_error_unless_another_has_some(tmp_path: Path) -> None:
    words = Tokenizer(another().to_str())
    with pytest.raises(InputError, match="no tokens"):
        prepare([write(tmp_path, a=" \n")], words, tmp_path / "cache")
    assert len(prepare([write(tmp_path, b="one two")], words, tmp_path / "cache").spans) == 1


def test_progress_goes_up_to_the_bytes_of_the_text(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    text = "été " * 100_000
    write(tmp_path, a=text, b="one")
    prepare([tmp_path], Tokenizer.bytes(), tmp_path / "cache", lambda *each: told.append(each))
    done = [each for what, each, _ in told if what == "tokenising"]
    assert done == sorted(done)
    assert len(set(done)) > 1
    assert done[-1] == len(text.encode()) + 3 == told[-1][2]


@pytest.mark.parametrize("text", [b"one line of words ", b"x"], ids=["words", "no space"])
def test_one_long_line_is_tokenised_in_little_memory(tmp_path: Path, text: bytes) -> None:
    size = 48 * MIB
    (tmp_path / "a.txt").write_bytes(text * (size // len(text)))
    tracemalloc.start()
    try:
        corpus = prepare([tmp_path], Tokenizer.bytes(), tmp_path / "cache")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(corpus) > size - len(text)
    assert peak < 24 * MIB
