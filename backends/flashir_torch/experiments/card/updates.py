"""Steps of AdamW by kernels against PyTorch's own in float64, for the stage `exact`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flashir.backends.training import AdamW
from flashir_torch.kernels.adamw import Update

STEPS, RATE = 3, 0.1
Shapes = Sequence[tuple[int, ...]]


def drawn(shapes: Shapes, seed: int) -> list[Tensor]:
    """Normal numbers; the first tensor is faint, so as a gradient it is not clipped."""
    random = torch.Generator().manual_seed(seed)
    first, *others = (torch.randn(shape, generator=random) for shape in shapes)
    return [1e-3 * first, *others]


def update_errors(shapes: Shapes, optimiser: AdamW, device: str) -> dict[str, float]:
    """How far parameters are off after some steps, and the norms of the gradients before: relative to their norms."""
    parameters, norms = by_pytorch(shapes, optimiser)
    moved = [x.to(device) for x in drawn(shapes, 0)]
    update = new_update(moved, optimiser)
    rate = torch.tensor(RATE, device=device)
    norms_of_steps = [update([x.to(device) for x in drawn(shapes, 1 + step)], rate).cpu() for step in range(STEPS)]
    pairs = {"parameters": (_joined(moved), _joined(parameters)), "norms": (torch.stack(norms_of_steps), norms)}
    return {name: float((got.double() - exact).norm() / exact.norm()) for name, (got, exact) in pairs.items()}


def new_update(parameters: Sequence[Tensor], optimiser: AdamW) -> Update:
    """Steps of parameters without moments."""
    means, squares = ([torch.zeros_like(x) for x in parameters] for _ in range(2))
    return Update(parameters, means, squares, torch.zeros((), device=parameters[0].device), optimiser)


def by_pytorch(shapes: Shapes, optimiser: AdamW) -> tuple[list[Tensor], Tensor]:
    """The parameters after some steps in float64, and the norm of the gradient before each, [steps]."""
    parameters = [x.double() for x in drawn(shapes, 0)]
    betas = (optimiser.beta1, optimiser.beta2)
    reference = torch.optim.AdamW(parameters, RATE, betas, optimiser.epsilon, optimiser.weight_decay)
    norms = []
    for step in range(STEPS):
        gradients = [x.double() for x in drawn(shapes, 1 + step)]
        norms.append(_joined(gradients).norm())
        for parameter, gradient in zip(parameters, gradients, strict=True):
            clip = optimiser.clip
            parameter.grad = gradient if clip is None else gradient * min(1.0, clip / float(gradient.norm()))
        reference.step()
    return parameters, torch.stack(norms)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([x.flatten().cpu() for x in tensors])
