"""The JAX backend: lowered graphs as pure functions of parameters and inputs, for jit, grad and export.

    import flashir_jax, jax

    graph = flashir_jax.lower(model, target="jax:cpu", seq_len=4096)     # plan and lower
    apply = flashir_jax.function(graph)
    weights = apply.stack(params)                                       # one array for all layers; optional
    logits = jax.jit(apply)(weights, ids)

JAX is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flashir_jax.backend import JaxBackend

if TYPE_CHECKING:
    from flashir_jax.functions import Function, function, lower

__all__ = ["Function", "JaxBackend", "function", "lower"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'flashir_jax' has no attribute {name!r}")
    from flashir_jax.backend import need_jax

    need_jax()
    return getattr(import_module("flashir_jax.functions"), name)
