"""Packing: every token is in one row, wanted after the one before it, and never after another document's."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flashir.backends.training import NO_LABEL
from flashir.train.data.packing import PAD, Rows, pack, rows_of
from tests.train.data.support import lengths, numbered

SEQ_LEN = st.integers(1, 20)


def packed(each: list[int], seq_len: int) -> Rows:
    corpus = numbered(each)
    return pack(corpus, np.arange(rows_of(corpus, seq_len)), seq_len)


def document_of(each: list[int]) -> list[int]:
    """The document of each token."""
    return [number for number, length in enumerate(each) for _ in range(length)]


@given(lengths(), SEQ_LEN)
def test_every_token_is_read_once_and_the_rest_is_padding(each: list[int], seq_len: int) -> None:
    rows = packed(each, seq_len)
    assert rows.ids[rows.real].tolist() == list(range(sum(each)))
    assert (rows.ids[~rows.real] == PAD).all()
    assert (~rows.real).sum() < seq_len


@given(lengths(), SEQ_LEN)
def test_every_token_but_the_first_of_a_document_is_wanted_once(each: list[int], seq_len: int) -> None:
    rows = packed(each, seq_len)
    firsts = {sum(each[:number]) for number in range(len(each))}
    wanted = rows.following[rows.following != NO_LABEL].tolist()
    assert sorted(wanted) == sorted(set(range(sum(each))) - firsts)


@given(lengths(), SEQ_LEN)
def test_no_label_crosses_a_document(each: list[int], seq_len: int) -> None:
    rows, document = packed(each, seq_len), document_of(each)
    labelled = rows.following != NO_LABEL
    assert rows.real[labelled].all()
    for token, label in zip(rows.ids[labelled].tolist(), rows.following[labelled].tolist()):
        assert label == token + 1
        assert document[label] == document[token]


@given(lengths(), SEQ_LEN)
def test_segments_count_the_documents_of_a_row(each: list[int], seq_len: int) -> None:
    rows, document = packed(each, seq_len), document_of(each)
    for ids, segments, real in zip(rows.ids, rows.segment_ids, rows.real):
        numbers = [document[token] for token in ids[real]]
        padded = numbers + [len(each)] * int((~real).sum())
        assert segments.tolist() == [number - numbers[0] for number in padded]


@given(lengths(), SEQ_LEN, st.randoms())
def test_a_row_is_the_same_whichever_are_read_with_it(each: list[int], seq_len: int, random: Random) -> None:
    corpus, whole = numbered(each), packed(each, seq_len)
    numbers = np.array(random.choices(range(rows_of(corpus, seq_len)), k=3))
    some = pack(corpus, numbers, seq_len)
    for name in ("ids", "following", "segment_ids", "real"):
        assert (getattr(some, name) == getattr(whole, name)[numbers]).all()
