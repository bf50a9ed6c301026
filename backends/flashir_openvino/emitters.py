"""Emitters for ops that OpenVINO runs faster in another form than ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.ir import DType, Node, Value
from flashir_onnx.emitters import EMITTERS as ONNX
from flashir_onnx.emitters import Emitter, reshape
from flashir_onnx.scope import Scope
from flashir_onnx.types import numpy_type
from flashir_openvino.angles import EMITTERS as ANGLES

HEADS = 4  # axes of [b, h, t, s]
QKV = ("q", "k", "v")  # the operands of attention without documents


def claims(node: Node) -> bool:
    """Whether an op is emitted here that portable ONNX lacks. `turn` as a kernel needs heads."""
    return node.op in ANGLES or (node.op == "turn" and node.output.type.rank == HEADS) or is_fused(node)


def is_fused(node: Node) -> bool:
    """Whether an op is written in parts that OpenVINO finds again and runs as one kernel.

    It is claimed for the cost model, since such a kernel stores no scores. In float16, lowering scales the parts.
    """
    return node.op == "softmax_attention" and len(node.operands) == len(QKV) and node.output.type.dtype is not DType.F16


def _dense(scope: Scope, node: Node, x: str, weight: str, bias: str) -> str:
    """x W + c without flattening the rows, because OpenVINO fuses no activation behind a reshape."""
    return scope.one("Add", scope.one("MatMul", x, weight), bias)


def _matmul(scope: Scope, node: Node, x: str, y: str) -> str:
    """Likewise with a transposed matrix, which OpenVINO reads in place."""
    right = node.operands[1].type
    if node.attrs["transpose_y"] and right.rank == 2 and not node.attrs["transpose_x"]:
        return scope.one("MatMul", x, scope.one("Transpose", y, perm=[1, 0]))
    result = ONNX["matmul"](scope, node, x, y)
    assert isinstance(result, str)
    return result


def _turn(scope: Scope, node: Node, x: str, sin: str, cos: str) -> str:
    """x cos + [-x2, x1] sin, which OpenVINO recognises and runs as one kernel, with tables as wide as x."""
    last = HEADS - 1
    half: Any = node.operands[1].type.shape[-1]
    first, second = scope.op("Split", x, scope.shape(half, half), axis=last, outputs=2)
    negated = scope.one("Mul", second, scope.constant(np.array(-1, numpy_type(node.output.type.dtype))))
    turned = scope.one("Concat", negated, first, axis=-1, stem="turned")

    def whole(table: Value, name: str) -> str:
        shape = table.type.shape
        of_heads = reshape(scope, name, shape, (*(1,) * (HEADS - len(shape)), *shape))
        return scope.one("Concat", of_heads, of_heads, axis=last)

    by_cos = scope.one("Mul", x, whole(node.operands[2], cos))
    return scope.one("Add", by_cos, scope.one("Mul", turned, whole(node.operands[1], sin)))


EMITTERS: dict[str, Emitter] = {**ANGLES, "dense": _dense, "matmul": _matmul, "turn": _turn}
