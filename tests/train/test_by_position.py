"""Loss by position: parts that double, sums that agree with the whole, labels that are missing."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from flashir.backends.training import NO_LABEL
from flashir.reference.cross_entropy import nats
from flashir.train.by_position import ByPosition


@pytest.mark.parametrize(
    ("seq_len", "ends"), [(1, [1]), (16, [16]), (17, [16, 17]), (100, [16, 32, 64, 100]), (128, [16, 32, 64, 128])]
)
def test_parts_double_and_cover_the_row(seq_len: int, ends: list[int]) -> None:
    logits, labels = np.zeros((2, seq_len, 4), np.float32), np.zeros((2, seq_len), np.int64)
    parts = ByPosition.of(seq_len).plus(logits, labels).as_dict()
    assert [part["to"] for part in parts] == ends and [part["from"] for part in parts] == [0, *ends[:-1]]
    assert sum(part["tokens"] for part in parts) == 2 * seq_len
    assert all(part["loss"] == pytest.approx(log(4)) and part["perplexity"] == pytest.approx(4) for part in parts)


def test_batches_add_up_to_the_loss_of_the_whole() -> None:
    draw = np.random.default_rng(0)
    total, whole = ByPosition.of(40), (0.0, 0)
    for _ in range(3):
        logits, labels = draw.standard_normal((2, 40, 5)), draw.integers(0, 5, (2, 40))
        labels[0, 20:] = NO_LABEL
        total = total.plus(logits, labels)
        whole = tuple(np.add(whole, nats(logits, labels)))
    assert total.total.nats == pytest.approx(whole[0]) and total.total.labels == whole[1] == 180
    assert [part.labels for part in total.scores] == [96, 60, 24]


def test_a_part_without_a_label_is_left_out() -> None:
    labels = np.full((1, 40), NO_LABEL)
    labels[:, 3] = 1
    (part,) = ByPosition.of(40).plus(np.zeros((1, 40, 2)), labels).as_dict()
    assert (part["from"], part["to"], part["tokens"]) == (0, 16, 1)
