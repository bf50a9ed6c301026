"""Why a plan chose as it did: the term of the cost model that decided, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from flashir.ir.graph import Attr
from flashir.planning.candidates import QUALITY_SLACK, Candidate
from flashir.transforms.settle_choices import Slot

TIE = 0.001  # closer than this, two candidates take the same time
MOST = 0.5  # the share of a difference that its reason accounts for
FEW = 10.0  # from so many times on, a share says less than a multiple


def explain(chosen: Candidate, candidates: Sequence[Candidate], policy: str, slots: Sequence[Slot]) -> str:
    """Why a candidate was chosen: how it compares with the best that has another value of each choice.

    One that was measured is compared with others that were: what is unmeasured could only be guessed at.

    Args:
        chosen: one of the candidates.
        candidates: those that it could have been.
        policy: by which it was chosen.
        slots: the choices of the model.
    """
    forced = [slot.choice.forced for slot in slots if slot.is_forced and slot.choice.forced]
    return " ".join([_compared(chosen, candidates, policy, slots), *forced])


def _compared(chosen: Candidate, candidates: Sequence[Candidate], policy: str, slots: Sequence[Slot]) -> str:
    if len(candidates) == 1:
        return _alone(chosen)
    if chosen.measured_ms is not None:
        candidates = [each for each in candidates if each.measured_ms is not None]
    if len(candidates) == 1:
        return "No other candidate was measured."
    sentences = []
    for slot in slots:
        alike = [each for each in candidates if _same(each, chosen, slots, but=slot)]
        sentences.append((_quality if slot.choice.changes_function else _fastest)(slot, chosen, alike, policy))
    return " ".join(filter(None, sentences))


def _same(one: Candidate, other: Candidate, slots: Sequence[Slot], *, but: Slot) -> bool:
    """Whether two candidates agree in what is chosen before a slot; of another op, in all its slots."""
    before = slots[: slots.index(but)]
    fixed = [slot for slot in slots if slot != but and (slot in before or slot.op != but.op)]
    return all(one.settings.get(slot.name) == other.settings.get(slot.name) for slot in fixed)


def _alone(chosen: Candidate) -> str:
    settled = "Nothing was left to choose. " if chosen.settings else ""
    if not chosen.predicted_ms:
        return f"{settled}There is nothing to compute."
    dearest = max(chosen.terms, key=lambda term: chosen.terms[term])
    share = chosen.terms[dearest] / chosen.predicted_ms
    return f"{settled}{share:.0%} of the time goes to {dearest}."


def _quality(slot: Slot, chosen: Candidate, candidates: Sequence[Candidate], policy: str) -> str:
    """`Chunk 256 is the largest within 5% of the fastest, ..`, of a choice that changes the function."""
    value = chosen.settings.get(slot.name)
    others = [each for each in candidates if each.settings.get(slot.name) != value]
    if not others or value is None:
        return ""
    if policy == "fastest":
        return _fastest(slot, chosen, candidates, policy)
    fastest = min(candidates, key=lambda each: each.ms)
    larger = [each for each in others if _number(each.settings.get(slot.name)) > _number(value)]
    claim = f"{_capital(slot.said(value))} is the largest within {QUALITY_SLACK - 1:.0%} of the fastest"
    is_fastest = fastest.settings.get(slot.name) == value
    if not is_fastest:
        claim += f", which is {slot.said(fastest.settings.get(slot.name))}"
    if not larger:
        return f"{claim}." if is_fastest else f"{claim}: it {_against(chosen, fastest)}."
    rival = min(larger, key=lambda each: each.ms)
    return f"{claim}: {slot.said(rival.settings.get(slot.name))} {_against(rival, fastest)}."


def _fastest(slot: Slot, chosen: Candidate, candidates: Sequence[Candidate], policy: str) -> str:
    """`Tile 64 is the fastest: tile 16 takes ..`, or `Cumulative sum by scan: matmul takes ..`"""
    value = chosen.settings.get(slot.name)
    others = [each for each in candidates if each.settings.get(slot.name) != value]
    if not others:
        return ""
    rival = min(others, key=lambda each: each.ms)
    other = rival.settings.get(slot.name)
    if slot.choice.is_length:
        return f"{_capital(slot.said(value))} is the fastest: {slot.said(other)} {_against(rival, chosen)}."
    return f"{_capital(slot.said(value))}: {other} {_against(rival, chosen)}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _number(value: Attr) -> float:
    return value if isinstance(value, (int, float)) else 0.0


def _against(slow: Candidate, fast: Candidate) -> str:
    """`takes 21% longer, most of it for sequential steps (4.1 ms against 0 ms)`"""
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
    return f"{verdict}, corrected by what was measured {_elsewhere(slow, fast)}" if corrected else verdict


def _reason(slow: Candidate, fast: Candidate) -> str | None:
    """The term that accounts for most of a difference; none where what was measured has other reasons."""
    gap = slow.ms - fast.ms
    gaps = {term: (ms - fast.terms.get(term, 0.0)) * (1 if gap > 0 else -1) for term, ms in slow.terms.items()}
    term = max(gaps, key=lambda each: gaps[each], default=None)
    return term if term is not None and gaps[term] >= MOST * abs(gap) else None


def _elsewhere(*candidates: Candidate) -> str:
    """What corrections come from."""
    lengths = sorted({each.near for each in candidates if each.near is not None})
    return f"at {' and '.join(map(str, lengths))} tokens" if lengths else "of others"


def _time(ms: float) -> str:
    if ms >= 1000:
        return f"{ms / 1000:.3g} s"
    return f"{ms:.3g} ms" if ms >= 1e-3 else "none"
