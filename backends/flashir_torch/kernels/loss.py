"""The cross-entropy of logits and its gradient in one kernel, which writes the gradient over the logits.

For 2^15 tokens and a vocabulary of 32000, logits in bfloat16 are 2.1 GB. They are read once from memory and written
once, and no second tensor of that size is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flashir.backends.training import NO_LABEL
from flashir_torch.kernels import loss_bodies
from flashir_torch.kernels.blocks import power_of_two
from flashir_torch.kernels.mixed import check_device

COLUMNS, WARPS = 4096, 8


def loss_over_logits(logits: Tensor, labels: Tensor, total: Tensor) -> Tensor:
    """The part of these rows in the mean cross-entropy over `total` labels, [], float32.

    Args:
        logits: [.., v], contiguous. They are overwritten by the gradient of the result.
        labels: [..]; those that are `NO_LABEL` do not count.
        total: [], float32.

    Raises:
        TargetError: the tensors are not on a GPU that Triton supports.
    """
    check_device(logits)
    width = logits.shape[-1]
    rows = logits.numel() // width
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if rows:
        with torch.cuda.device(logits.get_device()):  # Triton launches on the current one
            loss_bodies.cross_entropy[rows,](
                logits, labels.contiguous(), total, losses,
                width=width, ignored=NO_LABEL, columns=min(COLUMNS, power_of_two(width)), num_warps=WARPS,
            )  # fmt: skip
    return losses.sum()
