"""Why a plan chose as it did: the term of the cost model that decided, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from flashir.passes.choose import QUALITY_SLACK, Candidate

TIE = 0.001  # closer than this, two candidates take the same time
MOST = 0.5  # the share of a difference that its reason accounts for
FEW = 10.0  # from so many times on, a share says less than a multiple

OVER_TOKENS = "Tile 1, for a cumulative sum set by hand is one over tokens, as in Table 10; -s tile=N sets another."


def explain(chosen: Candidate, candidates: Sequence[Candidate], policy: str, *, tokens: bool = False) -> str:
    """What spoke for the chosen candidate, against the best with another chunk, tile or strategy.

    One that was measured is compared with others that were: what is unmeasured could only be guessed at.

    Args:
        chosen: one of the candidates.
        candidates: those that it could have been.
        policy: by which it was chosen.
        tokens: a cumulative sum that was set by hand makes it a sum over tokens.
    """
    compared = _compared(chosen, candidates, policy)
    return f"{compared} {OVER_TOKENS}" if tokens else compared


def _compared(chosen: Candidate, candidates: Sequence[Candidate], policy: str) -> str:
    if len(candidates) == 1:
        return _alone(chosen)
    if chosen.measured_ms is not None:
        candidates = [each for each in candidates if each.measured_ms is not None]
    if len(candidates) == 1:
        return "No other candidate was measured."
    parts = (_chunk(chosen, candidates, policy), _tile(chosen, candidates), _cumsum(chosen, candidates))
    return " ".join(part for part in parts if part)


def _alone(chosen: Candidate) -> str:
    settled = "" if (chosen.chunk, chosen.tile, chosen.cumsum) == (None, None, None) else "Nothing was left to choose. "
    if not chosen.predicted_ms:
        return f"{settled}There is nothing to compute."
    dearest = max(chosen.terms, key=lambda term: chosen.terms[term])
    share = chosen.terms[dearest] / chosen.predicted_ms
    return f"{settled}{share:.0%} of the time goes to {dearest}."


def _chunk(chosen: Candidate, candidates: Sequence[Candidate], policy: str) -> str:
    others = [each for each in candidates if each.chunk != chosen.chunk]
    if not others or chosen.chunk is None:
        return ""
    if policy == "fastest":
        rival = min(others, key=lambda each: each.ms)
        return f"Chunk {chosen.chunk} is the fastest: chunk {rival.chunk} {_against(rival, chosen)}."
    fastest = min(candidates, key=lambda each: each.ms)
    larger = [each for each in others if each.chunk is not None and each.chunk > chosen.chunk]
    claim = f"Chunk {chosen.chunk} is the largest within {QUALITY_SLACK - 1:.0%} of the fastest"
    if chosen.chunk != fastest.chunk:
        claim += f", which is chunk {fastest.chunk}"
    if not larger:
        return f"{claim}: it {_against(chosen, fastest)}." if chosen.chunk != fastest.chunk else f"{claim}."
    rival = min(larger, key=lambda each: each.ms)
    return f"{claim}: chunk {rival.chunk} {_against(rival, fastest)}."


def _tile(chosen: Candidate, candidates: Sequence[Candidate]) -> str:
    others = [each for each in candidates if each.chunk == chosen.chunk and each.tile != chosen.tile]
    if not others:
        return ""
    rival = min(others, key=lambda each: each.ms)
    return f"Tile {chosen.tile} is the fastest: tile {rival.tile} {_against(rival, chosen)}."


def _cumsum(chosen: Candidate, candidates: Sequence[Candidate]) -> str:
    alike = [each for each in candidates if (each.chunk, each.tile) == (chosen.chunk, chosen.tile)]
    others = [each for each in alike if each.cumsum != chosen.cumsum]
    if not others:
        return ""
    rival = min(others, key=lambda each: each.ms)
    return f"Cumulative sum by {chosen.cumsum}: {rival.cumsum} {_against(rival, chosen)}."


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
