"""What the tests of the ONNX backend share beside what all do: small models as protos, sessions on one thread."""

from __future__ import annotations

from collections.abc import Mapping

from flashir.backends.lowering import Lowering
from flashir.ir import Graph
from flashir.models.parameters import unit
from flashir.reference.compare import relative_error
from flashir_onnx.emit import Emitted, emit
from flashir_onnx.session import Session
from tests.backends.support import SMALL, TOLERANCE, Array, flash, tokens

__all__ = ["SMALL", "TOLERANCE", "Array", "emitted", "flash", "lowered", "relative_error", "session", "tokens", "unit"]


def lowered(graph: Graph) -> Graph:
    """Down to what the ONNX backend claims."""
    return Lowering.of("onnx:cpu").run(graph)


def emitted(graph: Graph, params: Mapping[str, Array]) -> Emitted:
    """A graph of any level as an ONNX model."""
    return emit(lowered(graph), params)


def session(graph: Graph, params: Mapping[str, Array]) -> Session:
    """A graph of any level in ONNX Runtime, on one thread."""
    return Session(emitted(graph, params), threads=1)
