"""What the tests of the PyTorch backend share: small models, their modules, comparison with the interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import fx

import flashir
from flashir.export import relative_error
from flashir.ir import Graph
from flashir.lowering import Lowering
from flashir.parameters import unit
from flashir_torch import TorchBackend, module
from flashir_torch.session import Session, compiled

Array = npt.NDArray[Any]
SMALL: dict[str, Any] = {"d_model": 16, "depth": 2, "key_dim": 8, "vocab": 11}
TOLERANCE = 1e-4

__all__ = ["SMALL", "TOLERANCE", "Array", "flash", "lowered", "net", "relative_error", "session", "tokens", "unit"]


def flash(chunk: int = 4, cumsum: str = "scan", **settings: Any) -> Graph:
    """A small model of two flash layers."""
    return flashir.model("flash", **{**SMALL, **settings}, chunk=chunk, cumsum=cumsum)


def tokens(model: Graph, batch: int, length: int, seed: int = 0) -> list[Array]:
    """Token ids, and segments of random lengths where the model takes them."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, SMALL["vocab"], (batch, length))
    segments = np.sort(rng.integers(0, 5, (batch, length)), axis=1)
    return [ids, segments][: len(model.inputs)]


def lowered(graph: Graph) -> Graph:
    """Down to what the PyTorch backend claims."""
    backend = TorchBackend()
    return Lowering("torch:cpu", backend.claims, backend.passes()).run(graph)


def net(graph: Graph, params: Mapping[str, Array] | None = None) -> fx.GraphModule:
    """A graph of any storey as a module, with parameters at which every term matters."""
    return module(lowered(graph), unit(graph) if params is None else params)


def session(graph: Graph, params: Mapping[str, Array]) -> Session:
    """A graph of any storey, numpy in and out."""
    return compiled(lowered(graph), params, "cpu")
