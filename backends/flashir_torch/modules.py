"""Models as modules in one call, for custom training or compilation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from flashir.execution.prepare import prepare
from flashir.ir import Graph
from flashir_torch.emit import module


def lower(
    model: Graph,
    target: str = "torch:cpu",
    params: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    **choices: Any,
) -> fx.GraphModule:
    """Plan the open choices of a model, and lower it to a module.

    Args:
        model: any graph.
        target: `torch:` and a device, available or not.
        params: parameters by full name; None for `flashir.init(model, seed)`.
        seed: the seed of the parameters if `params` is None.
        choices: `batch`, `seq_len`, `policy`, `chunk`, `cumsum`, `dtype` as for `flashir.plan`.

    Raises:
        SettingError, TargetError, ParameterError: as for `flashir.plan`.
    """
    ready = prepare(model, target, params, seed=seed, **choices)
    return module(ready.lowered, ready.params)
