"""Operators of ONNX Runtime that are not of the standard, where they are faster than what the standard has.

Measured by `python -m flashir_onnx.experiments.contrib`. A portable export has none.
"""

from __future__ import annotations

import numpy as np

from flashir.ir import DType, Node
from flashir_onnx.emitters import Emitter, iota, reshape
from flashir_onnx.scope import Scope
from flashir_onnx.types import element_type

DOMAIN, VERSION = "com.microsoft", 1


def claims(node: Node) -> bool:
    """Whether ONNX Runtime has the node whole: heads [b, h, t, s] turned by tables [t, s / 2], or [b, 1, t, s / 2]."""
    if node.op != "turn":
        return False
    x, sin, _ = (value.type for value in node.operands)
    if x.rank != 4 or x.dtype not in (DType.F32, DType.F16):
        return False
    return sin.shape[:-1] in (x.shape[2:3], (x.shape[0], 1, x.shape[2]))


def _turn(scope: Scope, node: Node, x: str, sin: str, cos: str) -> str:
    """Rows of tables: those from the first on for all of the batch alike, or for each its own.

    The cast, which ONNX Runtime drops, tells others what the result is.
    """
    table = node.operands[1].type.shape
    if len(table) == 2:
        places = scope.constant(np.zeros(1, np.int64))
    else:
        rows = table[0] * table[2]
        sin, cos = (reshape(scope, each, table, (rows, table[3])) for each in (sin, cos))
        places = reshape(scope, iota(scope, rows), (rows,), (table[0], table[2]))
    made = scope.one("RotaryEmbedding", x, places, cos, sin, domain=DOMAIN)
    return scope.one("Cast", made, to=element_type(node.output.type.dtype))


EMITTERS: dict[str, Emitter] = {"turn": _turn}
