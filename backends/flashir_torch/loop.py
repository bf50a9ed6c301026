"""Loops and branches. The loop of a `scan` is over the slices of one `unbind`, whose gradient is one `stack`.

With single slices, the gradient of each would be as large as the whole tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Body = Callable[..., tuple[Tensor, ...]]

UNROLLED = 16
"""`torch.compile` unrolls loops up to this many iterations; its compile time grows with their number."""


def scan(
    body: Body, axis: int, state: Sequence[Tensor], walked: Sequence[Tensor], captured: Sequence[Any]
) -> tuple[Tensor, ...]:
    """Run a scan: initial carries and sliced tensors -> last carries and stacked results.

    Args:
        body: (state, items, captured) -> (state, results).
        axis: the axis of the slices and of the stacked results.
        state: the initial carries.
        walked: the tensors to slice.
        captured: values that every iteration gets unchanged.
    """
    if torch.compiler.is_exporting():
        return _exported(body, axis, state, walked, captured)
    if torch.compiler.is_compiling() and walked[0].shape[axis] > UNROLLED:
        return _eager(body, axis, state, walked, captured)
    return _walk(body, axis, state, walked, captured)


def _walk(
    body: Body, axis: int, state: Sequence[Tensor], walked: Sequence[Tensor], captured: Sequence[Any]
) -> tuple[Tensor, ...]:
    carries = len(state)
    rounds = list(zip(*(x.unbind(axis) for x in walked), strict=True))
    stacks = []
    for items in rounds:
        results = body(*state, *items, *captured)
        state = results[:carries]
        stacks.append(results[carries:])
    if rounds:
        return (*state, *(torch.stack(ys, axis) for ys in zip(*stacks, strict=True)))
    zeros = (x.new_zeros((*x.shape[:axis], *x.shape[axis + 1 :])) for x in walked)
    results = body(*state, *zeros, *captured)  # a dummy iteration gives shapes and dtypes
    return (*state, *(y.unsqueeze(axis).narrow(axis, 0, 0) for y in results[carries:]))


_eager: Callable[..., tuple[Tensor, ...]] = torch.compiler.disable(_walk)  # type: ignore[no-untyped-call]


def _exported(
    body: Body, axis: int, state: Sequence[Tensor], walked: Sequence[Tensor], captured: Sequence[Any]
) -> tuple[Tensor, ...]:
    """One operator of the exported program, with a symbolic number of iterations, at least one."""
    from torch._higher_order_ops.scan import scan as loop

    def step(state: tuple[Tensor, ...], items: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        results = body(*state, *items, *captured)
        return results[: len(first)], tuple(y.clone() for y in results[len(first) :])  # must not return its inputs

    first = tuple(x.clone(memory_format=torch.contiguous_format) for x in state)
    last, stacked = loop(step, first, tuple(walked), dim=axis)
    return (*last, *stacked)


def if_needed(body: Callable[..., Tensor], mask: Tensor, *operands: Any) -> Any:
    """body(*operands) if the mask has a true element, otherwise the first operand."""
    return body(*operands) if bool(mask.any()) else operands[0]
