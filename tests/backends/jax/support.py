"""What the tests of the JAX backend share beside what all do: functions of small models."""

from __future__ import annotations

from flashir.backends.lowering import Lowering
from flashir.ir import Graph
from flashir.models.parameters import unit
from flashir.reference.compare import relative_error
from flashir_jax import Function, function
from tests.backends.support import SMALL, TOLERANCE, Array, flash, tokens

__all__ = ["SMALL", "TOLERANCE", "Array", "applied", "flash", "lowered", "relative_error", "tokens", "unit"]


def lowered(graph: Graph) -> Graph:
    """Down to what the JAX backend claims."""
    return Lowering.of("jax:cpu").run(graph)


def applied(graph: Graph) -> Function:
    """A graph of any level as a function of parameters and inputs."""
    return function(lowered(graph))
