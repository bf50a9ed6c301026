"""Which cases of a grid the default tests take: few, and yet every pair of settings; the other cases are slow."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cache
from itertools import combinations, product
from typing import Any

import pytest

from flashir.ops import OPS, Sample

GRID = (pytest.mark.slow, pytest.mark.grid)
"""Marks of a combination that costs minutes beside others like it: `-m slow` runs it, `.ci/run` leaves it out."""

Marks = pytest.MarkDecorator | tuple[pytest.MarkDecorator, ...]


def grid(together: int = 2, **axes: Iterable[Any]) -> pytest.MarkDecorator:
    """Every combination of the settings, as `pytest.mark.parametrize`.

    Slow tests try one setting more together than the default ones do, and what remains is of the grid.

    Args:
        together: how many settings the default cases try together: 2 for every pair, 1 for every value once.
        axes: the values of each argument.
    """
    cases = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    settings = [[f"{name} = {value!r}" for name, value in case.items()] for case in cases]
    quick, slow = (cover(settings, number) for number in (together, together + 1))
    marks = [() if place in quick else pytest.mark.slow if place in slow else GRID for place in range(len(cases))]
    return pytest.mark.parametrize(
        tuple(axes),
        [pytest.param(*case.values(), id=shown(case), marks=mark) for case, mark in zip(cases, marks, strict=True)],
    )


def in_turn(*, also: Marks = (), rest: Marks = pytest.mark.slow, **axes: Iterable[Any]) -> pytest.MarkDecorator:
    """Every combination of two arguments; by default each value of the first has one of the second, in turn.

    Args:
        also: marks of these cases.
        rest: marks of all other cases.
        axes: the values of the two arguments.
    """
    (first, ones), (second, others) = ((name, list(values)) for name, values in axes.items())
    return pytest.mark.parametrize(
        (first, second),
        [
            pytest.param(
                one,
                other,
                id=shown({first: one, second: other}),
                marks=also if i % len(others) == j else rest,
            )
            for i, one in enumerate(ones)
            for j, other in enumerate(others)
        ],
    )


def shown(settings: Mapping[str, Any]) -> str:
    """Settings as the name of a case."""
    texts = [_shown(name, value) for name, value in settings.items()]
    return "-".join(text for text in texts if text) or "none"


def _shown(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return shown(value)
    return f"{name}={value}" if isinstance(value, bool | int | float | None) else str(value)


def cover(cases: Sequence[Iterable[str]], together: int = 2) -> frozenset[int]:
    """The places of cases in which every setting that any case has, and every pair of them, is there.

    Greedily: the case that adds the most comes next.
    """
    groups = [
        {group for size in range(1, together + 1) for group in combinations(sorted(case), size)} for case in cases
    ]
    missing, chosen = set[tuple[str, ...]]().union(*groups), list[int]()
    while missing:
        best = max(range(len(groups)), key=lambda place: len(groups[place] & missing))
        missing -= groups[best]
        chosen.append(best)
    return frozenset(chosen)


@cache
def quick_samples(name: str, together: int = 2) -> tuple[int, ...]:
    """The places of the samples of an op that default tests take."""
    return tuple(sorted(cover([_settings(sample) for sample in OPS[name].samples], together)))


def slow_samples(name: str, together: int = 2) -> tuple[int, ...]:
    """The places of the other samples."""
    return tuple(sorted({*range(len(OPS[name].samples))} - {*quick_samples(name, together)}))


def sample_cases(claimed: Container[str]) -> pytest.MarkDecorator:
    """A case for each sample of each op: by default every pair of settings of an op that a backend claims.

    What only decomposes is made of ops that are cases themselves, so each of its settings is there once.
    """
    cases = []
    for name, record in OPS.items():
        own = record.is_primitive or name in claimed
        quick, rest = quick_samples(name, 2 if own else 1), pytest.mark.slow if own else GRID
        cases += [
            pytest.param(record, sample, id=f"{name}-{place}", marks=() if place in quick else rest)
            for place, sample in enumerate(record.samples)
        ]
    return pytest.mark.parametrize(("record", "case"), cases)


def _settings(sample: Sample) -> list[str]:
    """Attributes with their values, operands with their element types and numbers of axes."""
    kinds = [None if text is None else (text.split("[")[0], text.count(",")) for text in sample.operands]
    settings = [f"{len(kinds)} operands", *(f"operand {i}: {kind}" for i, kind in enumerate(kinds))]
    return settings + [f"{name} = {value!r}" for name, value in sample.attrs.items()]
