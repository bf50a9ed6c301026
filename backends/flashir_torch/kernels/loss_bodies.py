"""The kernel of a cross-entropy that writes its gradient over the logits."""

from __future__ import annotations

import triton
import triton.language as tl

LOWEST = tl.constexpr(-3e38)
"""A finite start for the largest logit: the difference of two infinities is no number."""


@triton.jit
def cross_entropy(
    logits: tl.tensor, labels: tl.tensor, total: tl.tensor, losses: tl.tensor,
    width: tl.constexpr, ignored: tl.constexpr, columns: tl.constexpr,
) -> None:  # fmt: skip
    """One program reads a row of logits for its loss, and again, from the cache, for its gradient."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * width
    label = tl.load(labels + row)
    counts = label != ignored
    part = tl.where(counts, 1.0 / tl.load(total), 0.0)
    score = tl.load(logits + label, mask=counts, other=0.0).to(tl.float32)  # before another thread overwrites it
    column = tl.arange(0, columns)
    largest = tl.full((columns,), LOWEST, tl.float32)
    summed = tl.zeros((columns,), tl.float32)
    for first in range(0, width, columns):
        inside = first + column < width
        x = tl.load(logits + first + column, mask=inside, other=float("-inf")).to(tl.float32)
        more = tl.maximum(largest, x)
        summed = summed * tl.exp(largest - more) + tl.exp(x - more)
        largest = more
    most = tl.max(largest, 0)
    log_sum = most + tl.log(tl.sum(summed * tl.exp(largest - most), 0))
    tl.store(losses + row, part * (log_sum - score))
    for first in range(0, width, columns):
        inside = first + column < width
        x = tl.load(logits + first + column, mask=inside, other=float("-inf")).to(tl.float32)
        gradient = part * (tl.exp(x - log_sum) - tl.where(first + column == label, 1.0, 0.0))
        tl.store(logits + first + column, gradient.to(logits.dtype.element_ty), mask=inside)
