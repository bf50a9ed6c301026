"""What the tests of the PyTorch backend share beside what all do: modules of small models."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from flashir.export import relative_error
from flashir.ir import Graph
from flashir.lowering import Lowering
from flashir.parameters import unit
from flashir_torch import module
from flashir_torch.session import Session, compiled
from tests.backends.support import SMALL, TOLERANCE, Array, flash, tokens

__all__ = ["SMALL", "TOLERANCE", "Array", "flash", "lowered", "net", "relative_error", "session", "tokens", "unit"]


def lowered(graph: Graph) -> Graph:
    """Down to what the PyTorch backend claims."""
    return Lowering.of("torch:cpu").run(graph)


def net(graph: Graph, params: Mapping[str, Array] | None = None) -> fx.GraphModule:
    """A graph of any storey as a module, with parameters at which every term matters."""
    return module(lowered(graph), unit(graph) if params is None else params)


def session(graph: Graph, params: Mapping[str, Array]) -> Session:
    """A graph of any storey, numpy in and out."""
    return compiled(lowered(graph), params, "cpu")
