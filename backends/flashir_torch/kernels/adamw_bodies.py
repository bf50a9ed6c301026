"""The kernels of a step of AdamW over all parameters, each with the gradient clipped to a norm of its own.

A parameter is cut into blocks, of which a program takes one. Tables say where: of each block, whose it is and with
which number it begins; of each parameter, how many numbers it has, where they are, and which blocks are its own.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def addresses(tensors: tl.tuple, table: tl.tensor, count: tl.constexpr) -> None:
    """Where tensors are. Told by a kernel, for a recording has its own gradients, and no copies from the processor."""
    for place in tl.static_range(count):
        tl.store(table + place, tensors[place].to(tl.int64))


@triton.jit
def norm_parts(
    gradients: tl.tensor, owners: tl.tensor, firsts: tl.tensor, sizes: tl.tensor, parts: tl.tensor, block: tl.constexpr
) -> None:
    """The sum of the squares of a block of a gradient."""
    program = tl.program_id(0)
    owner, first = tl.load(owners + program), tl.multiple_of(tl.load(firsts + program), block)
    gradient, left = _numbers(gradients, owner) + first, tl.load(sizes + owner) - first
    if left >= block:
        numbers = _read(gradient, left, block, True)
        tl.store(parts + program, tl.sum(numbers * numbers, 0))
    else:
        numbers = _read(gradient, left, block, False)
        tl.store(parts + program, tl.sum(numbers * numbers, 0))


@triton.jit
def norms(parts: tl.tensor, begins: tl.tensor, out: tl.tensor, block: tl.constexpr) -> None:
    """The sum of all parts of a parameter, in one order. begins [parameters + 1]."""
    program = tl.program_id(0)
    end = tl.load(begins + program + 1)
    summed = tl.zeros((block,), tl.float32)
    for begin in range(tl.load(begins + program), end, block):
        at = begin + tl.arange(0, block)
        summed += tl.load(parts + at, mask=at < end, other=0.0)
    tl.store(out + program, tl.sum(summed, 0))


@triton.jit
def adamw(
    gradients: tl.tensor, parameters: tl.tensor, means: tl.tensor, mean_squares: tl.tensor,
    owners: tl.tensor, firsts: tl.tensor, sizes: tl.tensor, totals: tl.tensor, factors: tl.tensor,
    clip: tl.tensor, beta1: tl.tensor, beta2: tl.tensor, epsilon: tl.tensor, clips: tl.constexpr, block: tl.constexpr,
) -> None:  # fmt: skip
    """A block of a parameter and its moments, by a gradient that is scaled as it is read.

    totals [parameters] are sums of squares. factors [3]: what the parameter keeps, the size of a step, and the root of
    the correction of the mean square.
    """
    program = tl.program_id(0)
    owner, first = tl.load(owners + program), tl.multiple_of(tl.load(firsts + program), block)
    left = tl.load(sizes + owner) - first
    scale = 1.0
    if clips:
        scale = clip / tl.maximum(tl.sqrt(tl.load(totals + owner)), clip)
    gradient, to = _numbers(gradients, owner) + first, _numbers(parameters, owner) + first
    mean, square = _numbers(means, owner) + first, _numbers(mean_squares, owner) + first
    if left >= block:
        _adamw(gradient, to, mean, square, left, scale, factors, beta1, beta2, epsilon, block, True)
    else:
        _adamw(gradient, to, mean, square, left, scale, factors, beta1, beta2, epsilon, block, False)


@triton.jit
def _adamw(
    gradient: tl.tensor, to: tl.tensor, to_mean: tl.tensor, to_square: tl.tensor, left: tl.tensor, scale: tl.tensor,
    factors: tl.tensor, beta1: tl.tensor, beta2: tl.tensor, epsilon: tl.tensor, block: tl.constexpr,
    whole: tl.constexpr,
) -> None:  # fmt: skip
    kept, size, correction = tl.load(factors), tl.load(factors + 1), tl.load(factors + 2)
    scaled = scale * _read(gradient, left, block, whole)
    mean = _read(to_mean, left, block, whole)
    mean += (1.0 - beta1) * (scaled - mean)
    square = beta2 * _read(to_square, left, block, whole) + (1.0 - beta2) * scaled * scaled
    moved = kept * _read(to, left, block, whole) - size * mean / (tl.sqrt(square) / correction + epsilon)
    _write(to, moved, left, block, whole)
    _write(to_mean, mean, left, block, whole)
    _write(to_square, square, left, block, whole)


@triton.jit
def _numbers(table: tl.tensor, owner: tl.tensor) -> tl.tensor:
    """The float32 numbers at an address, which is a multiple of 16."""
    return tl.multiple_of(tl.load(table + owner).to(tl.pointer_type(tl.float32)), 16)


@triton.jit
def _read(x: tl.tensor, left: tl.tensor, block: tl.constexpr, whole: tl.constexpr) -> tl.tensor:
    """A block of numbers; the last of a parameter has zeros behind them. Only whole blocks are read in wide pieces."""
    at = tl.arange(0, block)
    return tl.load(x + at) if whole else tl.load(x + at, mask=at < left, other=0.0)


@triton.jit
def _write(x: tl.tensor, numbers: tl.tensor, left: tl.tensor, block: tl.constexpr, whole: tl.constexpr) -> None:
    at = tl.arange(0, block)
    if whole:
        tl.store(x + at, numbers)
    else:
        tl.store(x + at, numbers, mask=at < left)
