"""Helpers of the importers: weight layouts, rotary frequencies, foreign parts of modules, padding masks."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from copy import deepcopy
from typing import Any

import numpy as np

from flashir.importing.importer import Forward, Settings
from flashir.ir import Builder, Value
from flashir.ir.op import flag
from flashir.reference.arrays import Array

MASK = flag(False, doc="whether the model takes a padding mask")
THETA = 10000.0
CLOSE = 1e-6


def linear(weight: Array) -> Array:
    """[out, in], or [out, in, 1] of a pointwise convolution, -> [in, out]"""
    return np.ascontiguousarray(weight.reshape(weight.shape[:2]).T)


def rates(count: int, width: int) -> Array:
    """The rotary frequencies 10000^(-2i / width) in float64, [count]"""
    return THETA ** (-2.0 * np.arange(count) / width)


def rate_problem(name: str, frequencies: Array, width: int) -> str | None:
    """The problem of wrong frequencies, or None. The rounding of float16 and bfloat16 is allowed."""
    wanted = rates(len(frequencies), width)
    errors = np.abs(frequencies.astype(np.float64) - wanted)
    if np.all(errors <= _tolerance(frequencies) * wanted + (1e-7 if frequencies.dtype == np.float16 else 0)):
        return None
    return (
        f"{name} must be the frequencies 10000^(-2i / {width}), got a relative error of {np.max(errors / wanted):.1e}"
    )


def _tolerance(array: Array) -> float:
    """The relative rounding error of the dtype. A float32 whose low bits are all zero counts as bfloat16."""
    if array.dtype == np.float16:
        return 2.0**-11
    bits = np.asarray(array, np.float32).view(np.uint32)
    return 2.0**-8 if not np.any(bits & 0xFFFF) else CLOSE


def mask_inputs(b: Builder, settings: Settings) -> tuple[Value, ...]:
    """The input `mask`, true for tokens, if the option of that name is set."""
    return (b.input("mask", "bool[B, T]"),) if settings["mask"] else ()


def sample_masks(settings: Settings, batch: int, length: int, random: np.random.Generator) -> tuple[Array, ...]:
    """A mask [b, t], if the option is set: the first row is full, the others are padded on the right."""
    lengths = [length, *random.integers(1, length + 1, batch - 1)]
    return (np.arange(length) < np.array(lengths)[:, None],) if settings["mask"] else ()


def each_alone(forward: Forward) -> Forward:
    """A model of unpadded rows as one that takes a mask: each row is computed without its padding, which becomes 0."""

    def run(x: Array, mask: Array | None = None) -> Array:
        if mask is None:
            return np.asarray(forward(x))
        rows = [forward(row[None, real])[0] for row, real in zip(x, mask, strict=True)]
        result = np.zeros((*mask.shape, *rows[0].shape[1:]))
        result[mask] = np.concatenate(rows)
        return result

    return run


def in_float64(module: Any) -> Any:
    """A copy of a live module in float64, with exact rotary frequencies and no cache between calls."""
    import torch

    copied = deepcopy(module).cpu().double().eval()
    for part in copied.modules():
        for name in ("inv_freq", "freqs"):
            if (frequencies := getattr(part, name, None)) is not None:
                exact = rates(len(frequencies), 2 * len(frequencies))
                frequencies.data.copy_(torch.from_numpy(exact))
        if hasattr(part, "cache_if_possible"):
            part.cache_if_possible = False
    return copied


def foreign(module: Any, known: Collection[str]) -> Iterator[str]:
    """A problem for each part of a live module whose class is not known."""
    for name, part in module.named_modules():
        if type(part).__name__ not in known:
            yield f"{name or 'the module'} is a {type(part).__name__}, which this model does not have"


def same_of_all(values: list[Any], what: str, problems: list[str]) -> Any:
    """The value that all layers share. Appends a problem if they differ."""
    distinct = list(dict.fromkeys(values))
    if len(distinct) > 1:
        problems.append(f"{what} must be the same in every layer, got {', '.join(map(str, distinct))}")
    return distinct[0] if distinct else None
