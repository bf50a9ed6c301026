"""A term is named only where it accounts for what is said; where measurements decide, they are named instead."""

from __future__ import annotations

from dataclasses import replace

import pytest

import flashir
from flashir.planning.candidates import Candidate
from flashir.planning.explain import explain
from flashir.transforms.settle_choices import slots
from tests.tune.support import chosen
from tests.tune.test_evidence import MODEL, keep

SLOTS = slots(flashir.model("flash", size="tiny"))
SCAN = chosen(64, "scan")
NATIVE = Candidate(chosen(64, "native"), 2.0, 0, terms={"matrix products": 1.9, "memory traffic": 0.1})


def said(winner: Candidate, other: Candidate) -> str:
    return explain(winner, [winner, other], "fastest", SLOTS)


def test_a_term_that_accounts_for_half_is_named() -> None:
    slow = replace(NATIVE, settings=SCAN, predicted_ms=2.4, terms={"matrix products": 1.9, "memory traffic": 0.5})
    why = "most of it for memory traffic (0.5 ms against 0.1 ms)."
    assert said(NATIVE, slow) == f"Cumulative sum by native: scan takes 20.0% longer, {why}"
    assert said(replace(NATIVE, measured_ms=2.0), replace(slow, measured_ms=2.7)).endswith(
        f"scan takes 35.0% longer as measured, {why}"
    )


def test_a_term_too_small_for_the_measured_gap_is_not_named() -> None:
    slow = replace(NATIVE, settings=SCAN, predicted_ms=2.1, terms={"matrix products": 1.9, "memory traffic": 0.2})
    told = said(replace(NATIVE, measured_ms=2.0), replace(slow, measured_ms=2.6))
    assert told == "Cumulative sum by native: scan takes 30.0% longer as measured."
    told = said(replace(NATIVE, measured_ms=20.0), replace(slow, measured_ms=21.0))
    assert told == "Cumulative sum by native: scan takes 5.0% longer as measured.", "0.1 ms of 1 ms"


def test_a_term_that_says_the_opposite_is_not_named() -> None:
    """The prediction has the other one faster, and one larger chunk is faster than what was measured."""
    fast = replace(NATIVE, settings=SCAN, predicted_ms=1.0, terms={"matrix products": 0.9, "memory traffic": 0.1})
    assert "for" not in said(replace(NATIVE, measured_ms=1.0), replace(fast, measured_ms=1.5)).partition("scan")[2]
    dearer = replace(
        NATIVE, settings=chosen(128, "native"), predicted_ms=4.0, terms={"matrix products": 3.9, "memory traffic": 0.1}
    )
    assert said(NATIVE, replace(dearer, correction=0.25, near=256)).endswith(
        "chunk 128 takes 50.0% less, corrected by measurements at 256 tokens."
    )


def test_of_what_takes_less_the_term_that_is_less_is_named() -> None:
    fast = replace(NATIVE, settings=SCAN, predicted_ms=1.0, terms={"matrix products": 0.8, "memory traffic": 0.2})
    assert said(NATIVE, fast).endswith("takes 50.0% less, most of it for matrix products (0.8 ms against 1.9 ms).")


def test_corrections_by_other_candidates_are_said_to_be_that() -> None:
    slow = replace(NATIVE, settings=SCAN, correction=1.5)
    assert said(NATIVE, slow).endswith("scan takes 50.0% longer, corrected by measurements of other candidates.")


def test_a_plan_at_another_length_says_where_it_was_measured() -> None:
    for choice, ms in ((chosen(64, "native"), 1.0), (chosen(64, "matmul"), 3.0)):
        keep(choice, ms, seq_len=256)
    why = flashir.plan(MODEL, seq_len=200, chunk=64).why
    assert "corrected by measurements at 256 tokens" in why


@pytest.mark.parametrize("ms", [1e-300, 1e-200, 1e11])
def test_whatever_a_store_holds_the_slower_one_takes_longer(ms: float) -> None:
    winner = replace(NATIVE, measured_ms=ms)
    rival = replace(NATIVE, settings=chosen(128, "native"), measured_ms=40 * ms)
    told = explain(winner, [winner, rival], "quality", SLOTS)
    assert told == "Chunk 64 is the largest within 5% of the fastest: chunk 128 takes 40 times as long as measured."


def test_what_takes_no_time_takes_the_same() -> None:
    nothing = Candidate(chosen(64, "native"), 0.0, 0, terms={"matrix products": 0.0})
    assert said(nothing, replace(nothing, settings=SCAN)) == "Cumulative sum by native: scan takes the same time."
