"""Tokenizers: what is encoded comes back, files are the library's, and the mask is no text."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given

from flashir.errors import InputError, SettingError, TargetError
from flashir.train.data import Tokenizer, documents
from flashir.train.data.text import pieces
from tests.train.data.support import WORDS, prose, texts, write

VOCAB = 300


def train(text: str, vocab: int) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        return Tokenizer.trained(documents([write(Path(folder), a=text)]), vocab)


TRAINED = train(f"{WORDS} " * 20, VOCAB)
BOTH = pytest.mark.parametrize("tokenizer", [Tokenizer.bytes(), TRAINED], ids=["bytes", "trained"])


def another(*special: str) -> tokenizers.Tokenizer:
    """A tokenizer as someone else may have made it, of words."""
    names = [*special, "?", "one", "two"]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(list(special))
    return made


@BOTH
@given(text=texts() | prose())
def test_what_is_encoded_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.mask not in ids


@given(texts())
def test_ids_of_bytes_are_the_bytes(text: str) -> None:
    assert Tokenizer.bytes().encode(text).tolist() == list(text.encode())


@given(texts())
def test_the_library_reads_bytes_the_same_way(text: str) -> None:
    library = tokenizers.Tokenizer.from_str(Tokenizer.bytes().text)
    assert library.encode(text).ids == list(text.encode())
    assert library.decode(list(text.encode())) == text


@given(prose())
def test_the_tokens_of_pieces_are_those_of_the_text(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (document,) = documents([write(Path(folder), a=text)])
        parts = list(pieces(document, 30))
    cut_in_words = any(not after[0].isspace() for after in parts[1:])
    if not cut_in_words:
        assert np.concatenate(TRAINED.encode_each(parts)).tolist() == TRAINED.encode(text).tolist()


def test_training_finds_the_words_of_the_text() -> None:
    assert len(TRAINED.encode("attention chunk global")) < len(Tokenizer.bytes().encode("attention chunk global")) / 2


@BOTH
def test_a_file_holds_the_whole_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.read(tmp_path / "tokenizer.json")
    assert again == tokenizer
    assert again.digest == tokenizer.digest
    assert again.encode(WORDS).tolist() == tokenizer.encode(WORDS).tolist()


def test_tokenizers_differ_by_their_digest() -> None:
    assert len({Tokenizer.bytes().digest, TRAINED.digest, train(f"{WORDS} " * 20, VOCAB - 1).digest}) == 3


def test_the_mask_is_the_last_id_and_no_text_reads_as_it() -> None:
    assert (Tokenizer.bytes().vocab, Tokenizer.bytes().mask) == (257, 256)
    assert (TRAINED.vocab, TRAINED.mask) == (VOCAB, VOCAB - 1)
    for tokenizer in (Tokenizer.bytes(), TRAINED):
        assert tokenizer.decode([tokenizer.mask]) == "<mask>"
        assert tokenizer.mask not in tokenizer.encode("a <mask> [MASK]<mask>")


def test_the_mask_of_others_is_found_by_its_name_or_added() -> None:
    bert = Tokenizer(another("[PAD]", "[MASK]").to_str())
    assert (bert.vocab, bert.mask) == (5, 1)
    plain = Tokenizer(another("[PAD]").to_str())
    assert (plain.vocab, plain.mask) == (5, 4)


def test_special_tokens_of_others_are_neither_added_nor_read() -> None:
    library = another("[CLS]", "[MASK]")
    library.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 0)])
    library.enable_truncation(2)
    library.enable_padding(length=8)
    tokenizer = Tokenizer(library.to_str())
    assert tokenizer.encode("one two one").tolist() == [3, 4, 3]
    assert tokenizer.mask not in tokenizer.encode("one [MASK]")
    assert tokenizer.decode([3, tokenizer.mask]) == "one [MASK]"


@pytest.mark.parametrize("task", ["lm", "mlm"])
@pytest.mark.parametrize(("tokenizer", "vocab"), [(Tokenizer.bytes(), 257), (TRAINED, VOCAB)], ids=["bytes", "trained"])
def test_a_model_may_pad_its_vocabulary_but_not_have_another(task: str, tokenizer: Tokenizer, vocab: int) -> None:
    for fits in (vocab, vocab + 127):
        tokenizer.check(task, fits)
    for strange in (vocab - 2, vocab + 128, 32000):
        with pytest.raises(InputError, match=f"a vocabulary of {strange}.*the tokenizer {vocab} ids"):
            tokenizer.check(task, strange)


def test_only_a_masked_model_needs_the_mask() -> None:
    Tokenizer.bytes().check("lm", 256)
    with pytest.raises(InputError, match="create the model with vocab=257"):
        Tokenizer.bytes().check("mlm", 256)
    first = Tokenizer(another("[MASK]").to_str())
    assert (first.vocab, first.needs("lm")) == (4, 4)


def test_an_unknown_task_is_an_error() -> None:
    with pytest.raises(SettingError, match="unknown task 'ml'; did you mean 'mlm'"):
        Tokenizer.bytes().check("ml", 257)


@BOTH
@pytest.mark.parametrize("token", [-1, 300, 32000])
def test_decoding_knows_its_ids(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(InputError, match=f"no token {token}"):
        tokenizer.decode([65, token])


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    assert Tokenizer.bytes().decode([0xFF, 65]) == "\N{REPLACEMENT CHARACTER}A"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "is not a tokenizer"),
        (b"[]", "is not a tokenizer"),
        (b"\xff", "cannot be read"),
        (json.dumps({"model": {"type": "BPE", "vocab": {}, "merges": []}}).encode(), "no tokens but"),
    ],
)
def test_a_file_that_holds_no_tokenizer_is_an_error(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=problem) as caught:
        Tokenizer.read(path)
    assert caught.value.where == str(path)


def test_a_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        Tokenizer.read(tmp_path / "tokenizer.json")


def test_a_vocabulary_has_room_for_bytes_and_no_more_than_the_text() -> None:
    assert train("a", 257).vocab == 257
    with pytest.raises(SettingError, match="at least 257"):
        train("a", 256)
    with pytest.raises(InputError, match="use a vocabulary of 259"):
        train("ab ab", 1000)


def test_long_texts_are_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashir.train.data.tokenizer.SAMPLE", 1 << 17)
    halves = "abcd " * (1 << 15) + "wxyz " * (1 << 15)
    assert len(train(halves, 264).encode("abcd wxyz")) == 2


def test_training_breaks_words_that_are_too_long_to_be_any() -> None:
    ten_merges = train("a" * 4096, 257 + 10)  # of which the tenth would make 1024 letters one token
    assert len(ten_merges.encode("a" * 512)) == 1
    assert len(ten_merges.encode("a" * 1024)) == 2


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)


@pytest.mark.usefixtures("no_library")
def test_bytes_need_no_library(tmp_path: Path) -> None:
    Tokenizer.bytes().save(tmp_path / "tokenizer.json")
    tokenizer = Tokenizer.read(tmp_path / "tokenizer.json")
    assert tokenizer.decode(tokenizer.encode("été")) == "été"


@pytest.mark.usefixtures("no_library")
def test_a_missing_library_says_how_to_get_it(tmp_path: Path) -> None:
    TRAINED.save(tmp_path / "tokenizer.json")
    for wanted in (lambda: Tokenizer.read(tmp_path / "tokenizer.json"), lambda: train("a", 257)):
        with pytest.raises(TargetError, match=r"pip install 'flashir\[train\]'"):
            wanted()
