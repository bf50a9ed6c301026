"""Models as modules in one call, for those who train or compile them themselves."""

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
    """A model as a module; what it leaves open is planned for the target first.

    Args:
        model: any graph.
        target: `torch:` and a device; it need not be at hand.
        params: by full name; without any, `flashir.init(model, seed)`.
        seed: of the parameters, where there are none.
        choices: `batch`, `seq_len`, `policy`, `chunk`, `cumsum`, `dtype` as for `flashir.plan`.

    Raises:
        SettingError, TargetError, ParameterError: as `flashir.plan`.
    """
    ready = prepare(model, target, params, seed=seed, **choices)
    return module(ready.lowered, ready.params)
