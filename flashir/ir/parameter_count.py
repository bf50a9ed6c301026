"""How many numbers a model learns, counted without a name for each parameter of each layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from math import prod

import numpy as np
import numpy.typing as npt

from flashir.ir.dims import Size, Symbol
from flashir.ir.graph import Graph
from flashir.ir.parameter_names import Loop, Use, check_names, parameters, parts, round_symbol, uses, with_scopes

Indices = npt.NDArray[np.int64]
Words = tuple[str | None, ...]
"""The components of a name between dots; None for one that is a number."""

_NUMBER = re.compile(r"(0|-?[1-9][0-9]{0,8})\Z")
_LARGEST_FACTOR = 2**30


def parameter_count(graph: Graph) -> int:
    """How many numbers a model learns; a parameter that is used twice counts once. Raises as `parameters` does."""
    check_names(graph)
    found: dict[tuple[Words, tuple[int, ...]], list[Indices]] = {}
    for use, times in _flat(uses(with_scopes(graph)), ()):
        words, numbers = _split(use.template)
        if any(word and "{" in word for word in words) or not all(map(_is_linear, numbers)):
            return sum(prod(each.shape) for each in parameters(graph).values())
        found.setdefault((words, use.spec.shape), []).append(_values(numbers, times))
    return sum(prod(shape) * _distinct(np.concatenate(values)) for (_, shape), values in found.items())


def _flat(found: Iterable[Use | Loop], times: tuple[int, ...]) -> Iterator[tuple[Use, tuple[int, ...]]]:
    """Each use with the rounds of the repeats around it, the outermost first."""
    for each in found:
        if isinstance(each, Use):
            yield each, times
        else:
            yield from _flat(each.uses, (*times, each.times))


def _split(template: str) -> tuple[Words, list[Size]]:
    """`layers.{i}.norm.0` -> (`layers`, None, `norm`, None), [i, 0]"""
    words: list[str | None] = []
    numbers: list[Size] = []
    for component in template.split("."):
        match parts(component):
            case ("", size, ""):
                number: str | Size = size
            case _:
                number = int(component) if _NUMBER.match(component) else component
        words.append(number if isinstance(number, str) else None)
        numbers += [] if isinstance(number, str) else [number]
    return tuple(words), numbers


def _is_linear(size: Size) -> bool:
    """Whether a size is a sum of rounds times numbers that int64 has room for."""
    if isinstance(size, int):
        return True
    return all(
        len(monomial) <= 1 and all(isinstance(atom, Symbol) for atom in monomial) and abs(factor) <= _LARGEST_FACTOR
        for monomial, factor in size.terms
    )


def _values(numbers: list[Size], times: tuple[int, ...]) -> Indices:
    """The numbers in each round: [rounds in all, numbers]"""
    rounds = np.indices(times).reshape(len(times), prod(times))
    found = np.zeros((prod(times), len(numbers)), np.int64)
    for column, size in enumerate(numbers):
        for monomial, factor in (((), size),) if isinstance(size, int) else size.terms:
            depth = [round_symbol(each) for each in range(len(times))].index(str(monomial[0])) if monomial else None
            found[:, column] += factor * (1 if depth is None else rounds[depth])
    return found


def _distinct(values: Indices) -> int:
    """How many rows differ."""
    return len(np.unique(values[:, 0]) if values.shape[1] == 1 else np.unique(values, axis=0))
