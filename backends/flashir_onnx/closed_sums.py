"""Sums of closed chunks without a branch, for portable models. A product has few rows unless a chunk closes."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from flashir.ir import Node
from flashir_onnx.emitters import Emitter, cast, reshape, swap_last
from flashir_onnx.scope import Scope
from flashir_onnx.types import numpy_type

ROWS = "closing_rows"
"""The name of a node that says how many old rows are multiplied: all, or none where no chunk closes."""


def any_true(scope: Scope, mask: str) -> str:
    """Whether a mask has a true element. The largest of none would be an error."""

    def emitted() -> str:
        count = scope.one("ReduceSum", scope.one("Cast", mask, to=TensorProto.INT64), keepdims=0, stem="count")
        return scope.one("Cast", count, to=TensorProto.BOOL, stem="any")

    return scope.once(("any", mask), emitted)


def add_products(scope: Scope, node: Node, total: str, counted: str, k: str, v: str, *new: str) -> str:
    """total + k^T v of the counted rows, of old rows that are cut off where none counts, and then of new ones."""
    keys, axis = node.operands[2].type, node.operands[2].type.rank - 2
    old_rows, rows = keys.shape[axis], node.operands[1].type.shape[1]
    stop = scope.once((ROWS, counted), lambda: _rows_to_multiply(scope, counted, scope.shape(old_rows), not new))

    def joined(old: str, axis: int, *more: str) -> str:
        part = scope.one("Slice", old, scope.shape(0), stop, scope.shape(axis))
        return scope.one("Concat", part, *more, axis=axis) if more else part

    def mask() -> str:
        more = [scope.one("Slice", counted, scope.shape(old_rows), scope.shape(rows), scope.shape(1))] if new else []
        axes = scope.shape(*range(1, axis), keys.rank - 1)
        return scope.one("Unsqueeze", joined(counted, 1, *more), axes)

    zero = scope.constant(np.zeros((), numpy_type(keys.dtype)))
    own = scope.one("Where", scope.once(("counted", counted, axis), mask), joined(k, axis, *new[:1]), zero)
    dtype, factors = node.output.type.dtype, (own, joined(v, axis, *new[1:]))
    if keys.dtype is not dtype:
        factors = (cast(scope, factors[0], dtype), cast(scope, factors[1], dtype))
    added = scope.one("MatMul", swap_last(scope, factors[0], keys.rank), factors[1])
    shape, values = node.output.type.shape, node.operands[3].type.shape
    own_shape = (*keys.shape[:-2], keys.shape[-1], values[-1])
    return scope.one("Add", total, added if shape == own_shape else reshape(scope, added, own_shape, shape))


def _rows_to_multiply(scope: Scope, counted: str, old_rows: str, alone: bool) -> str:
    """All old rows, or none: alone one, because some runtimes have no products over no rows."""
    return scope.one("Where", any_true(scope, counted), old_rows, scope.shape(int(alone)), stem=ROWS)


EMITTERS: dict[str, Emitter] = {"add_products": add_products}
