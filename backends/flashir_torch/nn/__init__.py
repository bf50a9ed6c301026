"""Layers of flashir as PyTorch modules, for custom models.

    from flashir_torch import nn

    layer = nn.FLASH(512, key_dim=128)              # attributes of the op `flash`
    y = layer(x, mask=mask)                         # x [b, t, 512] -> y [b, t, 512], norm and residual included

PyTorch is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flashir_torch.backend import need_torch

if TYPE_CHECKING:
    from flashir_torch.nn.layer import Layer
    from flashir_torch.nn.layers import FLASH, GAU, GLU, MLP, Attention, Combiner, MixedChunkAttention, Performer
    from flashir_torch.nn.model import Model
    from flashir_torch.nn.shard import fully_shard

__all__ = [
    "FLASH", "GAU", "GLU", "MLP", "Attention", "Combiner", "Layer", "MixedChunkAttention", "Model", "Performer",
    "fully_shard",
]  # fmt: skip

_MODULE_OF = {"Layer": "layer", "Model": "model", "fully_shard": "shard"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'flashir_torch.nn' has no attribute {name!r}")
    need_torch()
    return getattr(import_module(f"flashir_torch.nn.{_MODULE_OF.get(name, 'layers')}"), name)
