"""What importers share: tensors laid out anew, rates of positions, foreign parts of modules."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from flashir.importing.importer import Array

THETA = 10000.0
CLOSE = 1e-6


def linear(weight: Array) -> Array:
    """[out, in], or [out, in, 1] of a convolution over one token, -> [in, out]"""
    return np.ascontiguousarray(weight.reshape(weight.shape[:2]).T)


def rates(count: int, width: int) -> Array:
    """10000^(-2i / width), the rates at which positions turn, in float64, [count]"""
    return THETA ** (-2.0 * np.arange(count) / width)


def rate_problem(name: str, given: Array, width: int) -> str | None:
    """What is wrong with rates of positions, or None. Those in a narrow type may be rounded to it."""
    wanted = rates(len(given), width)
    apart = np.abs(given.astype(np.float64) - wanted)
    if np.all(apart <= _grain(given) * wanted + (1e-7 if given.dtype == np.float16 else 0)):
        return None
    return f"{name} are other frequencies than 10000^(-2i / {width}), {np.max(apart / wanted):.1e} off"


def _grain(given: Array) -> float:
    """By how much a number may be off that is the nearest of its type; of a bfloat16 that became a float32 too."""
    if given.dtype == np.float16:
        return 2.0**-11
    whole = np.asarray(given, np.float32).view(np.uint32)
    return 2.0**-8 if not np.any(whole & 0xFFFF) else CLOSE


def foreign(module: Any, known: Collection[str]) -> Iterator[str]:
    """What is wrong with the parts of a live module whose classes are none of those."""
    for name, part in module.named_modules():
        if type(part).__name__ not in known:
            yield f"{name or 'the module'} is a {type(part).__name__}, which is no part of this model"


def same_of_all(values: list[Any], what: str, problems: list[str]) -> Any:
    """The one value that all layers have; what is wrong where they differ is added."""
    distinct = list(dict.fromkeys(values))
    if len(distinct) > 1:
        problems.append(f"{what} must be the same in every layer, got {', '.join(map(str, distinct))}")
    return distinct[0] if distinct else None
