"""Sampling: numbers are SplitMix64's, tokens those of a reference in plain Python, and shares those of the softmax."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashir.errors import InputError, SettingError
from flashir.generation.sampling import Sampling, SplitMix64

# As Rosetta Code lists them for the seed 1234567.
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def reference(logits: list[float], temperature: float, top_k: int | None, top_p: float, u: float) -> int:
    """One token, told step by step as the docstring of `Sampling` does, with lists."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[:top_k]
    weights = [math.exp((logits[token] - logits[order[0]]) / temperature) for token in order]
    reached = list(accumulate(weights))
    last = next(place for place, sum_ in enumerate(reached) if sum_ >= top_p * reached[-1])
    reached = reached[: last + 1]
    return next(token for token, sum_ in zip(order, reached, strict=False) if sum_ > u * reached[-1])


def test_numbers_are_those_of_splitmix64() -> None:
    random = SplitMix64(1234567)
    assert [random.whole() for _ in PUBLISHED] == PUBLISHED
    random = SplitMix64(1234567)
    assert random.uniform() == (PUBLISHED[0] >> 11) / 2**53


def test_no_number_is_one() -> None:
    random = SplitMix64(0)
    random.whole = lambda: 2**64 - 1  # type: ignore[method-assign]
    assert random.uniform() == 1 - 2**-53


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(seed: int) -> None:
    SplitMix64(2**64 - 1)
    with pytest.raises(SettingError, match=r"0 \.\. 2\^64 - 1"):
        SplitMix64(seed)


@given(
    logits=st.lists(
        st.lists(
            st.sampled_from([-30.0, -1.5, 0.0, -0.0, 0.25, 2.0, 1e30]) | st.floats(-20, 20, width=32), min_size=7
        ).map(lambda row: row[:7]),
        min_size=1,
        max_size=3,
    ),
    temperature=st.sampled_from([1e-300, 0.1, 0.8, 1.0, 50.0]),
    top_k=st.none() | st.integers(1, 9),
    top_p=st.sampled_from([1e-9, 0.3, 0.9, 1.0]),
    seed=st.integers(0, 2**64 - 1),
)
def test_tokens_are_those_of_the_reference(
    logits: list[list[float]], temperature: float, top_k: int | None, top_p: float, seed: int
) -> None:
    array = np.array(logits, np.float32)
    drawn = SplitMix64(seed)
    wanted = [reference(row, temperature, top_k, top_p, drawn.uniform()) for row in array.tolist()]
    assert Sampling(temperature, top_k, top_p).pick(array, SplitMix64(seed)).tolist() == wanted


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("top_p", [1e-9, 0.9, 1.0])
@pytest.mark.parametrize("top_k", [None, 2000])
def test_tokens_of_a_large_vocabulary_are_those_of_the_reference(scale: float, top_p: float, top_k: int | None) -> None:
    """Equal logits among them, and distributions that are flat, of which the part put in order first is not enough."""
    logits = np.round(scale * np.random.default_rng(0).standard_normal((9, 9000)), 1).astype(np.float32)
    drawn = SplitMix64(1)
    wanted = [reference(row, 0.9, top_k, top_p, drawn.uniform()) for row in logits.tolist()]
    assert Sampling(0.9, top_k, top_p).pick(logits, SplitMix64(1)).tolist() == wanted


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
@given(logits=st.lists(st.floats(-800, 800, width=32), min_size=1, max_size=50))
def test_the_first_and_the_last_number_that_can_be_drawn_pick_a_token(u: float, logits: list[float]) -> None:
    random = SplitMix64(0)
    random.uniform = lambda: u  # type: ignore[method-assign]
    (picked,) = Sampling(1.0).pick(np.array([logits], np.float32), random)
    assert picked == reference([float(np.float32(x)) for x in logits], 1.0, None, 1.0, u)
    assert math.exp(logits[picked] - max(logits)) > 0


@pytest.mark.parametrize(
    ("sampling", "shares"),
    [
        (Sampling(1.0), [0.1, 0.2, 0.3, 0.4]),
        (Sampling(0.5), [1 / 30, 4 / 30, 9 / 30, 16 / 30]),
        (Sampling(1e9), [0.25] * 4),
        (Sampling(1.0, top_k=2), [0, 0, 3 / 7, 4 / 7]),
        (Sampling(1.0, top_p=0.65), [0, 0, 3 / 7, 4 / 7]),
        (Sampling(1.0, top_p=0.71), [0, 2 / 9, 3 / 9, 4 / 9]),
        (Sampling(1.0, top_k=3, top_p=0.4), [0, 0, 0, 1]),  # of three 0.44 is the share of the first
        (Sampling(1.0, top_p=1e-9), [0, 0, 0, 1]),
        (Sampling(0.0), [0, 0, 0, 1]),
    ],
)
def test_shares_are_those_of_the_softmax(sampling: Sampling, shares: list[float]) -> None:
    """Chi-squared over 5,000 draws: with 3 degrees of freedom, 27.9 is passed once in 250,000 seeds; this is one."""
    count = 5_000
    logits = np.log(np.broadcast_to([0.1, 0.2, 0.3, 0.4], (count, 4))).astype(np.float32)
    found = np.bincount(sampling.pick(logits, SplitMix64(7)), minlength=4)
    wanted = count * np.array(shares)
    possible = wanted > 0
    assert not found[~possible].any()
    assert (np.square(found - wanted)[possible] / wanted[possible]).sum() < 27.9


def test_rows_and_tokens_are_drawn_for_in_order() -> None:
    logits = np.zeros((6, 50), np.float32)
    one, other = SplitMix64(5), SplitMix64(5)
    together = Sampling(1.0).pick(logits, one).tolist()
    assert [int(Sampling(1.0).pick(row[None], other)[0]) for row in logits] == together
    assert one.whole() == other.whole()


def test_the_likeliest_needs_no_draw() -> None:
    random = SplitMix64(5)
    assert Sampling().pick(np.array([[0, 3, 3], [1, 0, 0]], np.float32), random).tolist() == [1, 0]
    assert random.whole() == SplitMix64(5).whole()


@pytest.mark.parametrize("strange", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(strange: float) -> None:
    for sampling in (Sampling(), Sampling(1.0)):
        with pytest.raises(InputError, match="logits of row 1 are not finite"):
            sampling.pick(np.array([[0, 1], [strange, 0]], np.float32), SplitMix64(0))
        assert sampling.pick(np.array([[-math.inf, 1]], np.float32), SplitMix64(0)).tolist() == [1]


@pytest.mark.parametrize("settings", [(-1.0, 0, 0.0), (math.nan, -3, 1.1), (math.inf, 0, math.nan)])
def test_settings_out_of_range_are_told_together(settings: Any) -> None:
    with pytest.raises(SettingError) as told:
        Sampling(*settings)
    assert len(told.value.problems) == 3
