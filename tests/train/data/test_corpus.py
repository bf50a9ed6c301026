"""A corpus: one stream of tokens, and two parts of it that have nothing in common."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flashir.errors import InputError, SettingError
from flashir.train.data import Corpus, Tokenizer
from flashir.train.data.corpus import Span
from tests.train.data.support import lengths, numbered


def tokens(corpus: Corpus) -> list[int]:
    return corpus.read(0, len(corpus)).tolist()


@given(lengths(), st.integers(0, 100), st.integers(0, 100))
def test_any_part_of_the_stream_can_be_read(each: list[int], start: int, stop: int) -> None:
    corpus = numbered(each)
    assert len(corpus) == sum(each)
    assert corpus.read(start, stop).tolist() == list(range(sum(each)))[start:stop]


@given(lengths())
def test_places_know_their_document(each: list[int]) -> None:
    wanted = [number for number, length in enumerate(each) for _ in range(length)] + [len(each)] * 2
    assert numbered(each).documents_at(np.arange(sum(each) + 2)).tolist() == wanted


@given(lengths(), st.floats(0.01, 0.99))
def test_the_parts_of_a_split_are_apart_and_nothing_is_lost(each: list[int], share: float) -> None:
    assume(sum(each) > 1)
    corpus = numbered(each)
    try:
        train, valid = corpus.split(share)
    except InputError:
        assume(False)
    assert sorted(tokens(train) + tokens(valid)) == tokens(corpus)
    assert train.tokenizer == valid.tokenizer == corpus.tokenizer
    again = corpus.split(share)
    assert (again[0].digest, again[1].digest) == (train.digest, valid.digest)


@given(st.lists(st.integers(1, 20), min_size=30, max_size=60), st.floats(0.1, 0.5))
def test_many_documents_are_held_out_whole_and_nearly_the_share(each: list[int], share: float) -> None:
    corpus = numbered(each)
    _, valid = corpus.split(share)
    assert {id(span) for span in valid.spans} <= {id(span) for span in corpus.spans}
    assert share * len(corpus) - 20 <= len(valid) <= share * len(corpus)


@pytest.mark.parametrize("others", [[], [3]])
def test_of_few_documents_the_end_of_the_largest_is_held_out(others: list[int]) -> None:
    train, valid = numbered([*others, 1000]).split(0.05)
    end = 1000 + sum(others)
    assert tokens(valid) == list(range(end - round(0.05 * end), end))
    assert tokens(train) == list(range(end - round(0.05 * end)))


def test_equal_texts_are_on_one_side() -> None:
    text = np.arange(10, dtype=np.uint8)
    many = [Span(text, f"{number // 5:064x}") for number in range(50)]
    train, valid = Corpus(Tokenizer.bytes(), tuple(many)).split(0.3)
    assert len(valid) == 150
    assert not {span.digest for span in train.spans} & {span.digest for span in valid.spans}
    two = [Span(np.arange(100, dtype=np.uint8), "0" * 64) for _ in range(2)]
    train, valid = Corpus(Tokenizer.bytes(), tuple(two)).split(0.1)
    assert not set(tokens(train)) & set(tokens(valid))


def test_a_document_that_is_all_held_out_leaves_no_empty_one() -> None:
    train, valid = numbered([10, 95, 95]).split(0.5)
    assert [len(span.tokens) for span in train.spans] == [10, 95]
    assert [len(span.tokens) for span in valid.spans] == [95]


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, float("nan")])
def test_a_share_is_between_nothing_and_all(share: float) -> None:
    with pytest.raises(SettingError, match="between 0 and 1"):
        numbered([10]).split(share)


def test_one_token_cannot_be_split() -> None:
    with pytest.raises(InputError, match="1 token is too few"):
        numbered([1]).split(0.5)


def test_the_digest_is_of_tokenizer_text_and_order() -> None:
    a, b = numbered([3, 4]).spans
    found = [
        Corpus(Tokenizer.bytes(), (a, b)),
        Corpus(Tokenizer.bytes(), (b, a)),
        Corpus(Tokenizer.bytes(), (a,)),
        Corpus(Tokenizer.bytes(), (a, Span(b.tokens[:2], b.digest))),
        Corpus(Tokenizer("another"), (a, b)),
    ]
    assert len({corpus.digest for corpus in found}) == len(found)
    assert numbered([3, 4]).digest == found[0].digest
