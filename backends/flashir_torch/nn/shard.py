"""FSDP for modules that have scalar parameters, which PyTorch does not shard."""

from __future__ import annotations

from typing import Any

from torch import Tensor, distributed, nn
from torch.distributed import fsdp

from flashir_torch.remat import layers


def fully_shard(module: nn.Module, **how: Any) -> nn.Module:
    """Shard a module of flashir layer by layer, by `torch.distributed.fsdp.fully_shard`.

    Scalars are replicated, and their gradients are averaged like those of the other parameters.

    Args:
        module: a module of `flashir.torch_module`.
        how: arguments for the function of PyTorch, such as `mesh`, with one axis.
    """
    scalars = {parameter for parameter in module.parameters() if not parameter.ndim}
    for part in (*layers(module), module):
        fsdp.fully_shard(part, ignored_params=scalars, **how)
    group = how["mesh"].get_group() if how.get("mesh") is not None else None

    def average(parameter: Tensor) -> None:
        assert parameter.grad is not None
        distributed.all_reduce(parameter.grad, group=group)
        parameter.grad /= distributed.get_world_size(group)

    for scalar in scalars:
        scalar.register_post_accumulate_grad_hook(average)  # type: ignore[no-untyped-call]
    return module
