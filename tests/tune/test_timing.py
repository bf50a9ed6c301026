"""What a busy machine does to a round is taken out of all that was timed in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashir.planning.measurements.statistics import timings


@given(
    st.lists(st.floats(0.1, 100), min_size=2, max_size=5),
    st.lists(st.floats(0.5, 5), min_size=3, max_size=9),
)
def test_the_slowness_of_rounds_cancels(times: list[float], slowness: list[float]) -> None:
    samples = {i: {r: ms * slow for r, slow in enumerate(slowness)} for i, ms in enumerate(times)}
    found = timings(samples)
    for i, ms in enumerate(times):
        assert found[i].ms / found[0].ms == pytest.approx(ms / times[0])
        assert found[i].spread_ms == pytest.approx(0.0, abs=1e-6 * found[i].ms)
        assert found[i].runs == len(slowness)


def test_candidates_of_different_rounds_compare_through_those_in_both() -> None:
    leader = {r: 10.0 if r < 3 else 30.0 for r in range(6)}
    early = dict.fromkeys(range(3), 11.0)
    late = dict.fromkeys(range(3, 6), 36.0)
    found = timings({0: leader, 1: early, 2: late})
    assert found[1].ms / found[0].ms == pytest.approx(1.1)
    assert found[2].ms / found[0].ms == pytest.approx(1.2)


def test_one_alone_has_its_plain_median() -> None:
    found = timings({0: {1: 5.0, 2: 7.0, 3: 6.0}})[0]
    assert (found.ms, found.spread_ms, found.runs) == (pytest.approx(6.0), pytest.approx(1.0), 3)
    assert found.doubt > 0
    assert timings({0: {1: 5.0}})[0].spread_ms == 0
    assert timings({}) == {}


def test_one_outlier_moves_nothing() -> None:
    samples = {i: dict.fromkeys(range(5), 10.0 * (i + 1)) for i in range(3)}
    samples[1][2] = 500.0
    found = timings(samples)
    assert [each.ms for each in found.values()] == [pytest.approx(10.0), pytest.approx(20.0), pytest.approx(30.0)]
