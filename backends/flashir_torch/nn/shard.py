"""FSDP for modules that have scalar parameters, which PyTorch does not shard."""

from __future__ import annotations

from typing import Any

from torch import Tensor, distributed, nn
from torch.distributed import fsdp

from flashir_torch.remat import layers


def fully_shard(module: nn.Module, **how: Any) -> nn.Module:
    """Shard a module of flashir layer by layer, by `torch.distributed.fsdp.fully_shard`.

    Scalars are whole in every process, and their gradients are averaged as those of all others are.

    Args:
        module: as `flashir.torch_module` gives it.
        how: as for PyTorch's function, such as `mesh`, of one axis.
    """
    scalars = {each for each in module.parameters() if not each.ndim}
    for part in (*layers(module), module):
        fsdp.fully_shard(part, ignored_params=scalars, **how)
    group = how["mesh"].get_group() if how.get("mesh") is not None else None

    def average(parameter: Tensor) -> None:
        assert parameter.grad is not None
        distributed.all_reduce(parameter.grad, group=group)
        parameter.grad /= distributed.get_world_size(group)

    for each in scalars:
        each.register_post_accumulate_grad_hook(average)  # type: ignore[no-untyped-call]
    return module
