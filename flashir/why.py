"""Why a plan chose as it did: the term of the cost model that decided, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from flashir.passes.choose import QUALITY_SLACK, Candidate


def explain(chosen: Candidate, candidates: Sequence[Candidate], policy: str) -> str:
    """What spoke for the chosen candidate, against the best with another chunk and the best with another strategy."""
    if len(candidates) == 1:
        return _single(chosen)
    parts = [_chunk(chosen, candidates, policy), _cumsum(chosen, candidates)]
    return " ".join(part for part in parts if part)


def _single(chosen: Candidate) -> str:
    dearest = max(chosen.terms, key=lambda term: chosen.terms[term])
    share = chosen.terms[dearest] / max(chosen.predicted_ms, 1e-12)
    fixed = "" if chosen.chunk is None and chosen.cumsum is None else "Nothing was left open. "
    return f"{fixed}{share:.0%} of the time goes to {dearest}."


def _chunk(chosen: Candidate, candidates: Sequence[Candidate], policy: str) -> str:
    others = [each for each in candidates if each.chunk != chosen.chunk]
    if not others or chosen.chunk is None:
        return ""
    fastest = min(candidates, key=lambda each: each.ms)
    if policy == "fastest" or chosen.chunk == fastest.chunk:
        rival = min(others, key=lambda each: each.ms)
        claim = "is the fastest"
        if policy == "quality":
            larger = [each for each in others if each.chunk is not None and each.chunk > chosen.chunk]
            rival = min(larger, key=lambda each: each.ms, default=rival)
            claim = f"is the largest within {QUALITY_SLACK - 1:.0%} of the fastest"
        return f"Chunk {chosen.chunk} {claim}: {_against(chosen, rival, f'chunk {rival.chunk}')}."
    return (
        f"Chunk {chosen.chunk} is the largest within {QUALITY_SLACK - 1:.0%} of the fastest, which is chunk "
        f"{fastest.chunk} ({_ms(fastest.ms)} against {_ms(chosen.ms)})."
    )


def _cumsum(chosen: Candidate, candidates: Sequence[Candidate]) -> str:
    others = [each for each in candidates if each.chunk == chosen.chunk and each.cumsum != chosen.cumsum]
    if not others:
        return ""
    rival = min(others, key=lambda each: each.ms)
    return f"Cumulative sum by {chosen.cumsum}: {_against(chosen, rival, str(rival.cumsum))}."


def _against(chosen: Candidate, rival: Candidate, name: str) -> str:
    """`scan takes 21% longer, most of it for sequential steps (4.10 ms against 0.02 ms)`"""
    longer = rival.ms / max(chosen.ms, 1e-12) - 1
    gaps = {term: rival.terms[term] - chosen.terms.get(term, 0.0) for term in rival.terms}
    term = max(gaps, key=lambda each: gaps[each] if longer >= 0 else -gaps[each])
    measured = " as measured" if chosen.measured_ms is not None and rival.measured_ms is not None else ""
    verdict = f"{name} takes {abs(longer):.1%} {'longer' if longer >= 0 else 'less'}{measured}"
    return f"{verdict}, most of it for {term} ({_ms(rival.terms[term])} against {_ms(chosen.terms.get(term, 0.0))})"


def _ms(value: float) -> str:
    return f"{value:.3g} ms"
