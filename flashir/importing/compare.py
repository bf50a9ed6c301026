"""Compare an imported model with its source in float64, at critical lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from flashir.errors import ParameterError
from flashir.importing.importer import TOLERANCE, Arrays, Forward, Settings, Structure
from flashir.ir import Graph
from flashir.ir.parameter_count import parameter_count
from flashir.reference.arrays import Array
from flashir.reference.interpreter import interpret

Case = tuple[int, Sequence[Array]]
"""A length, and inputs of this length."""

BATCH = 2
WORK = 10**11
"""Most multiplications of a comparison; for a larger model, the longest lengths are left out."""


def compare(graph: Graph, params: Arrays, structure: Structure, settings: Settings, others: dict[str, Forward]) -> str:
    """Compare a model with other implementations. Returns a line of text.

    Args:
        graph, params: the model and its parameters.
        structure, settings: the structure and settings that it was built from.
        others: the other implementations by name, such as `the numpy reference`.

    Raises:
        ParameterError: results differ by more than `TOLERANCE`, relative to the largest value.
    """
    lengths = _lengths(structure.lengths(settings), parameter_count(graph))
    return agree(graph, params, list(_cases(structure, settings, lengths)), others, TOLERANCE)


def agree(graph: Graph, params: Arrays, cases: Sequence[Case], others: dict[str, Forward], tolerance: float) -> str:
    """Compare a model in float64 with other functions. Returns a line of text.

    Args:
        graph, params: the model and its parameters.
        cases: lengths, and the inputs of each.
        others: the other functions by name.
        tolerance: the largest error, relative to the largest value.

    Raises:
        ParameterError: results differ by more.
    """
    worst = dict.fromkeys(others, 0.0)
    problems = []
    for length, inputs in cases:
        got = interpret(graph, params, *inputs)[0]
        real = next((array for array in inputs if array.dtype == np.bool_), np.ones(got.shape[:2], np.bool_))
        for name, forward in others.items():
            error = _error(got, forward(*inputs), real)
            worst[name] = max(worst[name], error)
            if not error <= tolerance:
                problems.append(f"at length {length} it is {error:.1e} off {name}, {tolerance:.0e} allowed")
    if problems:
        raise ParameterError(problems, hint="the options may be others than those the model was trained with")
    summary = " and ".join(f"{error:.1e} off {name}" for name, error in worst.items())
    batch = len(cases[0][1][0])
    return f"verified in float64 at lengths {', '.join(str(length) for length, _ in cases)}, batch {batch}: {summary}"


def _cases(structure: Structure, settings: Settings, lengths: Sequence[int]) -> Iterator[Case]:
    random = np.random.default_rng(0)
    for length in lengths:
        yield length, structure.inputs(settings, BATCH, length, random)


def _lengths(wanted: Sequence[int], parameters: int) -> list[int]:
    """The shortest lengths that stay within the work limit, at least two."""
    distinct = sorted(set(wanted))
    fits = [length for length in distinct if BATCH * length * parameters <= WORK]
    return fits if len(fits) > 1 else distinct[:2]


def _error(got: Array, wanted: Array, real: Array) -> float:
    """The relative error at real tokens [b, t]: what padding gives has no meaning."""
    if got.shape != wanted.shape:
        return float("inf")
    scale = float(np.max(np.abs(wanted[real]), initial=0.0)) or 1.0
    return float(np.max(np.abs(got - wanted)[real], initial=0.0)) / scale
