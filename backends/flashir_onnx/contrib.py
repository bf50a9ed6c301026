"""Operators of ONNX Runtime that are not of the standard, where they are faster than what the standard has.

Measured by `python -m flashir_onnx.bench_contrib`. A portable export has none.
"""

from __future__ import annotations

import numpy as np

from flashir.ir import DType, Node
from flashir_onnx.emitters import Emitter
from flashir_onnx.scope import Scope
from flashir_onnx.types import element_type

DOMAIN, VERSION = "com.microsoft", 1


def claims(node: Node) -> bool:
    """Whether ONNX Runtime has the node whole: heads [b, h, t, s] turned by tables [t, s / 2] that all rows share."""
    if node.op != "turn":
        return False
    x, sin, _ = (value.type for value in node.operands)
    return x.rank == 4 and sin.shape == (x.shape[2], sin.shape[-1]) and x.dtype in (DType.F32, DType.F16)


def _turn(scope: Scope, node: Node, x: str, sin: str, cos: str) -> str:
    """The rows of the tables from the first on. The cast, which ONNX Runtime drops, tells others what the result is."""
    first = scope.constant(np.zeros(1, np.int64))
    made = scope.one("RotaryEmbedding", x, first, cos, sin, domain=DOMAIN)
    return scope.one("Cast", made, to=element_type(node.output.type.dtype))


EMITTERS: dict[str, Emitter] = {"turn": _turn}
