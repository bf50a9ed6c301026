"""Batches: a function of the seed and the step, each row once an epoch, and a reader that is ahead."""

from __future__ import annotations

import threading
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashir.backends.training import NO_LABEL, Batch
from flashir.errors import InputError, SettingError
from flashir.train.data import Batches, Corpus, TextBatches, Tokenizer, ahead
from flashir.train.data.corpus import Span
from tests.train.data.support import lengths, numbered

VOCAB = 257
TASK = pytest.mark.parametrize("task", ["lm", "mlm"])


def batches(each: list[int], **settings: Any) -> Batches:
    chosen = {"task": "lm", "rows": 2, "seq_len": 4, "seed": 0, "segments": False, "vocab": VOCAB, **settings}
    return TextBatches(numbered(each), **chosen)


def same(a: Batch, b: Batch) -> bool:
    return len(a.inputs) == len(b.inputs) and all(
        np.array_equal(x, y) for x, y in zip((*a.inputs, a.labels), (*b.inputs, b.labels))
    )


def first_tokens(found: Batches, steps: range) -> list[int]:
    """What each row begins with, which says which row it is."""
    return [token for step in steps for token in found.at(step).inputs[0][:, 0].tolist()]


@TASK
@given(seed=st.integers(0, 2**40), step=st.integers(0, 10_000), rows=st.integers(1, 5))
def test_seed_and_step_say_everything(task: str, seed: int, step: int, rows: int) -> None:
    def made() -> Batches:
        return batches([30, 7, 50], task=task, seed=seed, rows=rows)

    used = made()
    for other in (0, step + 1, 7):
        used.at(other)
    assert same(used.at(step), made().at(step))


@TASK
@given(step=st.integers(0, 1000))
def test_more_rows_a_step_are_the_rows_of_more_steps(task: str, step: int) -> None:
    few, many = batches([30, 7, 50], task=task), batches([30, 7, 50], task=task, rows=4)
    parts = few.at(2 * step), few.at(2 * step + 1)
    joined = Batch((np.concatenate([part.inputs[0] for part in parts]),), np.concatenate([p.labels for p in parts]))
    assert same(many.at(step), joined)


@given(lengths().filter(lambda each: max(each) > 1), st.integers(1, 5), st.integers(1, 9), st.integers(0, 3))
def test_an_epoch_has_each_row_once(each: list[int], rows: int, seq_len: int, epoch: int) -> None:
    found = batches(each, rows=1, seq_len=seq_len)
    n = found.rows_of_epoch
    assert sorted(first_tokens(found, range(epoch * n, (epoch + 1) * n))) == list(range(0, sum(each), seq_len))


def test_steps_seeds_and_epochs_have_other_rows() -> None:
    found = batches([4000], rows=100)
    steps = [first_tokens(found, range(step, step + 1)) for step in range(10)]
    assert len({token for step in steps for token in step}) == 1000
    assert sorted(first_tokens(found, range(10))) == sorted(first_tokens(found, range(10, 20)))
    assert first_tokens(found, range(10)) != first_tokens(found, range(10, 20))
    assert first_tokens(found, range(10)) != first_tokens(batches([4000], rows=100, seed=1), range(10))
    assert first_tokens(found, range(10)) != sorted(first_tokens(found, range(10)))


def test_without_shuffling_rows_are_in_the_order_of_the_text() -> None:
    assert first_tokens(batches([40], shuffle=False), range(5)) == list(range(0, 40, 4))


def test_a_corpus_smaller_than_a_batch_is_read_several_times() -> None:
    batch = batches([5], rows=5).at(0)
    assert sorted(batch.inputs[0][:4, 0].tolist()) == [0, 0, 4, 4]


def test_shapes_and_types_are_those_of_a_batch() -> None:
    for segments in (False, True):
        batch = batches([30, 7, 50], rows=3, segments=segments).at(0)
        assert len(batch.inputs) == 1 + segments
        for x in (*batch.inputs, batch.labels):
            assert (x.shape, x.dtype) == ((3, 4), np.int64)


def test_the_second_input_is_of_the_same_rows() -> None:
    batch = batches([3, 2, 3], rows=1, seq_len=8, segments=True).at(0)
    assert batch.inputs[1].tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    assert batch.labels.tolist() == [[1, 2, NO_LABEL, 4, NO_LABEL, 6, 7, NO_LABEL]]


def test_masks_are_other_ones_in_every_epoch_and_never_of_padding() -> None:
    found = batches([41], task="mlm", rows=1, seq_len=40)
    long = [batch for batch in map(found.at, range(8)) if (batch.labels != NO_LABEL).sum() > 1]
    assert len(long) == 4
    assert len({tuple(batch.labels[0]) for batch in long}) == 4
    short = [batch for batch in map(found.at, range(8)) if (batch.labels != NO_LABEL).sum() == 1]
    assert all(batch.labels[0, 0] == 40 for batch in short)


def test_another_seed_masks_other_tokens_of_the_same_row() -> None:
    one, two = (batches([40], task="mlm", rows=1, seq_len=40, seed=seed).at(0) for seed in (0, 1))
    assert one.labels.tolist() != two.labels.tolist()


@TASK
@given(lengths().filter(lambda each: max(each) > 1), st.integers(1, 7))
def test_once_has_every_row_once_in_order(task: str, each: list[int], rows: int) -> None:
    found = batches(each, task=task, rows=rows)
    whole = list(found.once())
    assert all(batch.labels.shape == (rows, 4) for batch in whole)
    one_by_one = list(batches(each, task=task, rows=1).once())
    labels = np.concatenate([batch.labels for batch in whole])
    assert (labels[: len(one_by_one)] == np.concatenate([batch.labels for batch in one_by_one])).all()
    assert (labels[len(one_by_one) :] == NO_LABEL).all()
    if task == "lm":
        firsts = np.concatenate([batch.inputs[0][:, 0] for batch in whole])[: len(one_by_one)]
        assert firsts.tolist() == list(range(0, sum(each), 4))
        assert (labels != NO_LABEL).sum() == sum(each) - len(each)
    assert all(same(a, b) for a, b in zip(whole, found.once(), strict=True))


@pytest.mark.parametrize(("name", "value"), [("rows", 0), ("seq_len", 0), ("seed", -1), ("rows", 1.5)])
def test_numbers_are_checked(name: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"{name} must be a whole number"):
        batches([10], **{name: value})


def test_numbers_of_numpy_are_numbers() -> None:
    assert same(batches([30], rows=np.int64(2), seed=np.int64(3)).at(1), batches([30], seed=3).at(1))


def test_a_task_or_vocabulary_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(SettingError, match="unknown task"):
        batches([10], task="translate")
    with pytest.raises(InputError, match="a vocabulary of 32000"):
        batches([10], vocab=32000)


def test_a_text_in_which_nothing_follows_is_an_error() -> None:
    single = Corpus(Tokenizer.bytes(), (Span(np.zeros(1, np.uint8), "0"), Span(np.zeros(1, np.uint8), "1")))
    with pytest.raises(InputError, match="two tokens"):
        TextBatches(single, "lm", 1, 4, 0, False, VOCAB)
    assert TextBatches(single, "mlm", 1, 4, 0, False, VOCAB).at(0).wanted == 1


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_reading_ahead_gives_the_same_batches_and_ends_when_closed() -> None:
    found = batches([300])
    reading = ahead(found, first=5)
    assert all(same(batch, found.at(step)) for step, batch in zip(range(5, 40), reading))
    assert readers()
    reading.close()
    assert not readers()


def test_reading_is_ahead_by_its_depth_and_not_more(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    third = threading.Event()

    def at(self: Batches, step: int) -> int:
        read.append(step)
        if step == 9:
            third.set()
        return step

    monkeypatch.setattr(Batches, "at", at)
    reading = ahead(batches([300]), first=7, depth=2)
    assert next(reading) == 7
    assert third.wait(5)
    assert read == [7, 8, 9]
    assert list(islice(reading, 3)) == [8, 9, 10]
    reading.close()


def test_what_goes_wrong_in_reading_is_raised_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def at(self: Batches, step: int) -> int:
        if step == 2:
            raise OSError("the disk is gone")
        return step

    monkeypatch.setattr(Batches, "at", at)
    reading = ahead(batches([300]))
    assert [next(reading), next(reading)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(reading)
    assert not readers()
