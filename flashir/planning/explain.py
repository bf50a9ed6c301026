"""Explain a plan in a sentence: which term of the cost model decided."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from flashir.ir.graph import Attr
from flashir.planning.candidates import QUALITY_SLACK, Candidate, best
from flashir.transforms.settle_choices import Slot

TIE = 0.001  # candidates closer than this take the same time
MOST = 0.5  # a term is given as the reason if it accounts for this share of the difference
FEW = 10.0  # ratios from here on are printed as multiples, not percentages


def explain(chosen: Candidate, candidates: Sequence[Candidate], policy: str, slots: Sequence[Slot]) -> str:
    """Explain a choice: for each slot, compare with the best candidate that has another value there.

    A measured candidate is compared only with measured ones.

    Args:
        chosen: the chosen candidate.
        candidates: all candidates, including the chosen one.
        policy: the policy that chose.
        slots: the choices of the model.
    """
    forced = [slot.choice.forced for slot in slots if slot.is_forced and slot.choice.forced]
    return " ".join([_compared(chosen, candidates, policy, slots), *forced])


def _compared(chosen: Candidate, candidates: Sequence[Candidate], policy: str, slots: Sequence[Slot]) -> str:
    if len(candidates) == 1:
        return _alone(chosen)
    if chosen.measured_ms is not None:
        candidates = [candidate for candidate in candidates if candidate.measured_ms is not None]
    if len(candidates) == 1:
        return "No other candidate was measured."
    if chosen.measured_ms is not None and (rival := best(candidates, policy)) is not chosen:
        return _kept(chosen, rival, slots)
    sentences = []
    for slot in slots:
        alike = [candidate for candidate in candidates if _same(candidate, chosen, slots, but=slot)]
        sentences.append((_quality if slot.choice.changes_function else _fastest)(slot, chosen, alike, policy))
    return " ".join(filter(None, sentences))


def _kept(chosen: Candidate, rival: Candidate, slots: Sequence[Slot]) -> str:
    """`Chunk 256 is kept as predicted: chunk 128 takes 1.2% less as measured, which is within the doubt.`"""
    differing = [slot for slot in slots if chosen.settings.get(slot.name) != rival.settings.get(slot.name)]
    own, other = (
        ", ".join(slot.text(candidate.settings.get(slot.name)) for slot in differing) for candidate in (chosen, rival)
    )
    return f"{_capital(own)} is kept as predicted: {other} {_against(rival, chosen)}, which is within the doubt."


def _same(one: Candidate, other: Candidate, slots: Sequence[Slot], *, but: Slot) -> bool:
    """Whether two candidates agree on the earlier slots of this op and on all slots of other ops."""
    before = slots[: slots.index(but)]
    fixed = [slot for slot in slots if slot != but and (slot in before or slot.op != but.op)]
    return all(one.settings.get(slot.name) == other.settings.get(slot.name) for slot in fixed)


def _alone(chosen: Candidate) -> str:
    settled = "Nothing was left to choose. " if chosen.settings else ""
    if not chosen.predicted_ms:
        return f"{settled}There is nothing to compute."
    largest = max(chosen.terms, key=lambda term: chosen.terms[term])
    share = chosen.terms[largest] / chosen.predicted_ms
    return f"{settled}{share:.0%} of the time goes to {largest}."


def _quality(slot: Slot, chosen: Candidate, candidates: Sequence[Candidate], policy: str) -> str:
    """`Chunk 256 is the largest within 5% of the fastest, ..`, for a choice that changes the function."""
    value = chosen.settings.get(slot.name)
    others = [candidate for candidate in candidates if candidate.settings.get(slot.name) != value]
    if not others or value is None:
        return ""
    if policy == "fastest":
        return _fastest(slot, chosen, candidates, policy)
    fastest = min(candidates, key=lambda candidate: candidate.ms)
    larger = [candidate for candidate in others if _number(candidate.settings.get(slot.name)) > _number(value)]
    claim = f"{_capital(slot.text(value))} is the largest within {QUALITY_SLACK - 1:.0%} of the fastest"
    is_fastest = fastest.settings.get(slot.name) == value
    if not is_fastest:
        claim += f", which is {slot.text(fastest.settings.get(slot.name))}"
    if not larger:
        return f"{claim}." if is_fastest else f"{claim}: it {_against(chosen, fastest)}."
    rival = min(larger, key=lambda candidate: candidate.ms)
    return f"{claim}: {slot.text(rival.settings.get(slot.name))} {_against(rival, fastest)}."


def _fastest(slot: Slot, chosen: Candidate, candidates: Sequence[Candidate], policy: str) -> str:
    """`Tile 64 is the fastest: tile 16 takes ..`, or `Cumulative sum by scan: matmul takes ..`."""
    value = chosen.settings.get(slot.name)
    others = [candidate for candidate in candidates if candidate.settings.get(slot.name) != value]
    if not others:
        return ""
    rival = min(others, key=lambda candidate: candidate.ms)
    other = rival.settings.get(slot.name)
    if slot.choice.is_length:
        return f"{_capital(slot.text(value))} is the fastest: {slot.text(other)} {_against(rival, chosen)}."
    return f"{_capital(slot.text(value))}: {other} {_against(rival, chosen)}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _number(value: Attr) -> float:
    return value if isinstance(value, (int, float)) else 0.0


def _against(slow: Candidate, fast: Candidate) -> str:
    """`takes 21% longer, most of it for sequential steps (4.1 ms against 0 ms)`."""
    both = slow.measured_ms is not None and fast.measured_ms is not None
    measured = " as measured" if both else ""
    if abs(slow.ms - fast.ms) <= TIE * fast.ms:
        return f"takes the same time{measured}"
    ratio = slow.ms / fast.ms if fast.ms else inf
    share = f"{abs(ratio - 1):.1%} {'longer' if ratio > 1 else 'less'}"
    verdict = f"takes {share if ratio < FEW else f'{ratio:.3g} times as long'}{measured}"
    if (term := _reason(slow, fast)) is not None:
        times = f"{_time(slow.terms[term])} against {_time(fast.terms.get(term, 0.0))}"
        return f"{verdict}, most of it for {term} ({times})"
    corrected = not both and (slow.correction, fast.correction) != (1.0, 1.0)
    return f"{verdict}, corrected by measurements {_elsewhere(slow, fast)}" if corrected else verdict


def _reason(slow: Candidate, fast: Candidate) -> str | None:
    """The term that accounts for most of a difference, or None."""
    gap = slow.ms - fast.ms
    gaps = {term: (ms - fast.terms.get(term, 0.0)) * (1 if gap > 0 else -1) for term, ms in slow.terms.items()}
    term = max(gaps, key=lambda name: gaps[name], default=None)
    return term if term is not None and gaps[term] >= MOST * abs(gap) else None


def _elsewhere(*candidates: Candidate) -> str:
    """Which measurements the corrections come from."""
    lengths = sorted({candidate.near for candidate in candidates if candidate.near is not None})
    return f"at {' and '.join(map(str, lengths))} tokens" if lengths else "of other candidates"


def _time(ms: float) -> str:
    if ms >= 1000:
        return f"{ms / 1000:.3g} s"
    return f"{ms:.3g} ms" if ms >= 1e-3 else "none"
