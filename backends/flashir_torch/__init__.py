"""The PyTorch backend: lowered graphs as modules, to run, train, compile and export.

    from flashir_torch import lower

    net = lower(flashir.model("flash"), seq_len=4096)     # a torch.fx.GraphModule
    loss = net(ids).logsumexp(-1).mean()
    loss.backward()

PyTorch is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flashir_torch.backend import TorchBackend, need_torch

if TYPE_CHECKING:
    from flashir_torch.emit import module
    from flashir_torch.modules import lower

__all__ = ["TorchBackend", "lower", "module"]

_HOME_OF = {"module": "emit", "lower": "modules"}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'flashir_torch' has no attribute {name!r}")
    need_torch()
    return getattr(import_module(f"flashir_torch.{_HOME_OF[name]}"), name)
