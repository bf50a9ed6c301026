"""The number of learned scalars of a model, counted without listing the parameters of every layer."""

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
Components = tuple[str | None, ...]
"""The components of a name between dots; None for a number."""

_NUMBER = re.compile(r"(0|-?[1-9][0-9]{0,8})\Z")
_LARGEST_FACTOR = 2**30


def parameter_count(graph: Graph) -> int:
    """The number of learned scalars. A shared parameter counts once. Raises the errors of `parameters`."""
    check_names(graph)
    indices: dict[tuple[Components, tuple[int, ...]], list[Indices]] = {}
    for use, times in _flat(uses(with_scopes(graph)), ()):
        components, numbers = _split(use.template)
        if any(component and "{" in component for component in components) or not all(map(_is_linear, numbers)):
            return sum(prod(spec.shape) for spec in parameters(graph).values())
        indices.setdefault((components, use.spec.shape), []).append(_values(numbers, times))
    return sum(prod(shape) * _distinct(np.concatenate(values)) for (_, shape), values in indices.items())


def _flat(inner: Iterable[Use | Loop], times: tuple[int, ...]) -> Iterator[tuple[Use, tuple[int, ...]]]:
    """Each use with the iteration counts of the repeats around it, outermost first."""
    for use in inner:
        if isinstance(use, Use):
            yield use, times
        else:
            yield from _flat(use.uses, (*times, use.times))


def _split(template: str) -> tuple[Components, list[Size]]:
    """`layers.{i}.norm.0` -> (`layers`, None, `norm`, None), [i, 0]."""
    components: list[str | None] = []
    numbers: list[Size] = []
    for text in template.split("."):
        match parts(text):
            case ("", size, ""):
                number: str | Size = size
            case _:
                number = int(text) if _NUMBER.match(text) else text
        components.append(number if isinstance(number, str) else None)
        numbers += [] if isinstance(number, str) else [number]
    return tuple(components), numbers


def _is_linear(size: Size) -> bool:
    """Whether a size is linear in the rounds, with coefficients small enough for int64."""
    if isinstance(size, int):
        return True
    return all(
        len(monomial) <= 1 and all(isinstance(atom, Symbol) for atom in monomial) and abs(factor) <= _LARGEST_FACTOR
        for monomial, factor in size.terms
    )


def _values(numbers: list[Size], times: tuple[int, ...]) -> Indices:
    """The numbers in each round: [all rounds, numbers]."""
    rounds = np.indices(times).reshape(len(times), prod(times))
    result = np.zeros((prod(times), len(numbers)), np.int64)
    for column, size in enumerate(numbers):
        for monomial, factor in (((), size),) if isinstance(size, int) else size.terms:
            depth = [round_symbol(level) for level in range(len(times))].index(str(monomial[0])) if monomial else None
            result[:, column] += factor * (1 if depth is None else rounds[depth])
    return result


def _distinct(values: Indices) -> int:
    """The number of distinct rows."""
    return len(np.unique(values[:, 0]) if values.shape[1] == 1 else np.unique(values, axis=0))
