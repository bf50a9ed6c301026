"""Non-standard operators of ONNX Runtime that are faster than the standard ones.

`python -m flashir_onnx.experiments.contrib` measures them. A portable export uses none.
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
    """RotaryEmbedding with one table for the whole batch, or one per row.

    The cast, which ONNX Runtime drops, gives the tools of ONNX the type of the result.
    """
    table = node.operands[1].type.shape
    if len(table) == 2:
        positions = scope.constant(np.zeros(1, np.int64))
    else:
        rows = table[0] * table[2]
        sin, cos = (reshape(scope, name, table, (rows, table[3])) for name in (sin, cos))
        positions = reshape(scope, iota(scope, rows), (rows,), (table[0], table[2]))
    rotated = scope.one("RotaryEmbedding", x, positions, cos, sin, domain=DOMAIN)
    return scope.one("Cast", rotated, to=element_type(node.output.type.dtype))


EMITTERS: dict[str, Emitter] = {"turn": _turn}
