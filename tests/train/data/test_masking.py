"""Masking: 15 % of the tokens are wanted; of these 80 % are hidden, 10 % replaced, 10 % kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashir.backends.training import NO_LABEL
from flashir.train.data import Tokenizer
from flashir.train.data.masking import mask
from tests.train.data.test_tokenizer import another

BYTES = Tokenizer.bytes()
LONG = 200_000
TOLERANCE = (
    0.01  # fifteen standard deviations of a share of 80 % among the 30000 tokens that are chosen: below 0.0024 each
)


@given(st.lists(st.integers(0, 255), max_size=300), st.integers(0, 1000))
def test_labels_are_the_tokens_that_were_chosen(given_ids: list[int], seed: int) -> None:
    ids = np.array(given_ids, np.int64)
    seen, labels = mask(ids, BYTES, np.random.default_rng(seed))
    chosen = labels != NO_LABEL
    assert chosen.sum() == (max(round(0.15 * len(ids)), 1) if len(ids) else 0)
    assert (labels[chosen] == ids[chosen]).all()
    assert (seen[~chosen] == ids[~chosen]).all()
    assert ids.tolist() == given_ids


def test_shares() -> None:
    ids = np.zeros(LONG, np.int64)
    seen, labels = mask(ids, BYTES, np.random.default_rng(0))
    fate = seen[labels != NO_LABEL]
    assert len(fate) == 0.15 * LONG
    kept = 0.1 + 0.1 / 256  # a replacement may be the token itself
    assert (fate == BYTES.mask).mean() == pytest.approx(0.8, abs=TOLERANCE)
    assert (fate == 0).mean() == pytest.approx(kept, abs=TOLERANCE)


def test_chosen_tokens_are_anywhere() -> None:
    _, labels = mask(np.zeros(LONG, np.int64), BYTES, np.random.default_rng(0))
    for part in np.split(labels, 10):
        assert (part != NO_LABEL).mean() == pytest.approx(0.15, abs=TOLERANCE)


@pytest.mark.parametrize("tokenizer", [BYTES, Tokenizer(another("[MASK]", "[PAD]").to_str())], ids=["last", "first"])
def test_replacements_are_any_token_but_the_mask(tokenizer: Tokenizer) -> None:
    other = 3  # neither the mask of the one nor of the other
    seen, labels = mask(np.full(LONG, other), tokenizer, np.random.default_rng(0))
    replaced = seen[(labels != NO_LABEL) & (seen != tokenizer.mask) & (seen != other)]
    assert set(replaced.tolist()) == set(range(tokenizer.vocab)) - {tokenizer.mask, other}
