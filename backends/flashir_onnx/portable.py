"""What portable models write in another form: operators that are newer than opset 17, and sums without branches."""

from __future__ import annotations

from flashir.ir import Node
from flashir_onnx import closed_sums, contrib
from flashir_onnx.emitters import Emitter, iota, reshape
from flashir_onnx.scope import Scope

SINCE = {"turn": 23}
"""The opset of the operator, by op."""


def claims(node: Node, opset: int) -> bool:
    """Whether a portable model of this opset has a form of its own for the node."""
    if node.op in closed_sums.EMITTERS:
        return True
    return node.op in SINCE and SINCE[node.op] <= opset and contrib.claims(node)


def _turn(scope: Scope, node: Node, x: str, sin: str, cos: str) -> str:
    """RotaryEmbedding: one table [t, s / 2] is read at the positions 0, 1 ..; tables of rows have a batch axis."""
    table = node.operands[1].type.shape
    if len(table) > 2:
        rows = (table[0], *table[2:])
        return scope.one("RotaryEmbedding", x, *(reshape(scope, name, table, rows) for name in (cos, sin)))
    batch, _, length, _ = node.operands[0].type.shape
    positions = scope.one("Expand", iota(scope, length), scope.shape(batch, length), stem="positions")
    return scope.one("RotaryEmbedding", x, cos, sin, positions)


EMITTERS: dict[str, Emitter] = {"turn": _turn, **closed_sums.EMITTERS}
