"""Functions of tensors that PyTorch lacks, written so that `torch.compile` fuses them well in both directions."""

from __future__ import annotations

import torch
from torch import Tensor


def turned(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """[x1, x2] -> [x1 cos - x2 sin, x2 cos + x1 sin], for the halves of the last axis.

    Written without `cat`, for which a fused kernel would compute both halves everywhere.
    """
    halves = x.view(*x.shape[:-1], 2, x.shape[-1] // 2)
    sign = torch.arange(-1, 2, 2, dtype=x.dtype, device=x.device).unsqueeze(-1)
    rotated = halves * cos.unsqueeze(-2) + halves.flip(-2) * (sign * sin.unsqueeze(-2))
    return rotated.flatten(-2)


def relative_bias(w: Tensor, n: int) -> Tensor:
    """[n, n] with bias[i, j] = w[j - i + m], m the middle of w.

    Row n - 1 - i of [n, 2n - 1] copies of w, moved by i: the flat copies, read in rows of 2n. So the gradient is a sum
    over rows in one order. A lookup would add with atomics, in another order on every run. Pads below 0 cut: unlike
    those of `narrow`, their gradients are pads again.
    """
    ends = n - 1 - w.shape[0] // 2
    flat = torch.constant_pad_nd(w, [ends, ends]).expand(n, 2 * n - 1).flatten()
    rows = torch.constant_pad_nd(flat, [0, n]).view(n, 2 * n)
    return torch.constant_pad_nd(rows, [0, -n]).flip(0)
