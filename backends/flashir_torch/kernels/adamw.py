"""A step of AdamW over all parameters in a few kernels, with the gradient of each clipped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flashir.backends.training import AdamW
from flashir_torch.kernels import adamw_bodies

BLOCK, WARPS = 4096, 8
AT_ONCE = 128
"""The most tensors whose addresses one kernel is told."""
ALIGNED = 16
"""The bytes that addresses are multiples of."""


class Update:
    """Steps of AdamW on parameters that stay where they are, launched without synchronisation, so they can be recorded.

    Args:
        parameters: float32, contiguous, on one GPU.
        means, squares: the means of their gradients and of the squares of these, in the same shapes and order.
        count: how many steps were made, [].
        optimiser: the hyperparameters.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        means: Sequence[Tensor],
        squares: Sequence[Tensor],
        count: Tensor,
        optimiser: AdamW,
    ) -> None:
        self._optimiser, self._count = optimiser, count
        self._kept = (parameters, means, squares)  # kernels know their addresses alone
        self._device = parameters[0].device
        sizes = [parameter.numel() for parameter in parameters]
        blocks = [-(-size // BLOCK) for size in sizes]
        places = torch.arange(len(sizes)).repeat_interleave(torch.tensor(blocks))
        begins = torch.tensor([0, *blocks]).cumsum(0)
        self._blocks = int(begins[-1])
        firsts = (torch.arange(self._blocks) - begins[places]) * BLOCK
        self._sizes, self._begins = self._laid(sizes), self._laid(begins)
        self._owners, self._firsts = self._laid(places), self._laid(firsts)
        self._tables = [self._laid([x.data_ptr() for x in tensors]) for tensors in self._kept]

    def __call__(self, gradients: Sequence[Tensor], learning_rate: Tensor) -> Tensor:
        """Make a step at a learning rate, []. Returns the norm of the whole gradient before clipping, []."""
        gradients = [_aligned(gradient) for gradient in gradients]
        at = (self._addresses(gradients), *self._tables)
        parts, squares = (torch.empty(size, device=self._device) for size in (self._blocks, len(gradients)))
        blocks, options = (self._owners, self._firsts, self._sizes), {"block": BLOCK, "num_warps": WARPS}
        optimiser, clips = self._optimiser, self._optimiser.clip is not None
        with torch.cuda.device(parts.get_device()):  # Triton launches on the current one
            adamw_bodies.norm_parts[self._blocks,](at[0], *blocks, parts, **options)
            adamw_bodies.norms[len(gradients),](parts, self._begins, squares, **options)
            adamw_bodies.adamw[self._blocks,](
                *at, *blocks, squares, self._factors(learning_rate), optimiser.clip or 0.0,
                optimiser.beta1, optimiser.beta2, optimiser.epsilon, clips=clips, **options,
            )  # fmt: skip
        return squares.sum().sqrt()

    def _factors(self, learning_rate: Tensor) -> Tensor:
        """What a parameter keeps, the size of a step, and the root of the correction of its mean square, [3]."""
        optimiser, count = self._optimiser, self._count.add_(1).double()
        by_mean, by_square = (1 - beta**count for beta in (optimiser.beta1, optimiser.beta2))
        rate = learning_rate.double()
        return torch.stack((1 - rate * optimiser.weight_decay, rate / by_mean, by_square.sqrt())).float()

    def _addresses(self, tensors: Sequence[Tensor]) -> Tensor:
        table = torch.empty(len(tensors), dtype=torch.int64, device=self._device)
        for first in range(0, len(tensors), AT_ONCE):
            some = tuple(tensors[first : first + AT_ONCE])
            with torch.cuda.device(table.get_device()):
                adamw_bodies.addresses[1,](some, table[first:], count=len(some))
        return table

    def _laid(self, numbers: Tensor | Sequence[int]) -> Tensor:
        return torch.as_tensor(numbers, dtype=torch.int64).to(self._device)


def _aligned(gradient: Tensor) -> Tensor:
    """The gradient, contiguous and at an address that kernels can read from in wide pieces."""
    gradient = gradient.contiguous()
    return gradient if gradient.data_ptr() % ALIGNED == 0 else gradient.clone()
