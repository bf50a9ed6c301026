"""The loop of a `scan`: over slices that one `unbind` makes, whose gradient is one `stack`.

To take slice by slice would give each a gradient as large as the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Body = Callable[..., tuple[Tensor, ...]]

UNROLLED = 16
"""Rounds up to which `torch.compile` sees through a loop: compiling takes as long as there are rounds."""


def scan(
    body: Body, axis: int, state: Sequence[Tensor], walked: Sequence[Tensor], captured: Sequence[Any]
) -> tuple[Tensor, ...]:
    """Carries and what is walked over -> last carries and stacked results.

    Args:
        body: (state, items, captured) -> (state, results).
        axis: walked along, and stacked along by the results.
        state: the carries.
        walked: what is walked over.
        captured: what every round sees unchanged.
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
    made = []
    for items in rounds:
        results = body(*state, *items, *captured)
        state = results[:carries]
        made.append(results[carries:])
    if rounds:
        return (*state, *(torch.stack(ys, axis) for ys in zip(*made, strict=True)))
    zeros = (x.new_zeros((*x.shape[:axis], *x.shape[axis + 1 :])) for x in walked)
    results = body(*state, *zeros, *captured)  # a round that does not count tells shapes and types
    return (*state, *(y.unsqueeze(axis).narrow(axis, 0, 0) for y in results[carries:]))


_eager: Callable[..., tuple[Tensor, ...]] = torch.compiler.disable(_walk)  # type: ignore[no-untyped-call]


def _exported(
    body: Body, axis: int, state: Sequence[Tensor], walked: Sequence[Tensor], captured: Sequence[Any]
) -> tuple[Tensor, ...]:
    """As one operator of the exported program, so that the number of rounds stays open. It needs one at least."""
    from torch._higher_order_ops.scan import scan as loop

    def step(state: tuple[Tensor, ...], items: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        results = body(*state, *items, *captured)
        kept = results[len(first) :]
        return results[: len(first)], tuple(y.clone() for y in kept)  # it must not return what it was given

    first = tuple(x.clone(memory_format=torch.contiguous_format) for x in state)
    last, made = loop(step, first, tuple(walked), dim=axis)
    return (*last, *made)
