"""Sines and cosines of positions, without float64, which OpenVINO computes in float32.

In float32, position 10^5 is off by 10^-2 radians. So a position is written in digits to the base 64, the sines of each
digit are read from a table that is computed in float64, and the angles of the digits are added by products.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.ir import Node
from flashir.ops.functions.position import MAX_PERIOD
from flashir_onnx.emitters import Emitter, iota
from flashir_onnx.scope import Scope
from flashir_onnx.types import element_type

BASE, DIGITS = 64, 4
"""Positions below 64^4, 16 million, are read."""


def tables(half: int) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """For each digit, the sines and the cosines of the angles that its values stand for, [BASE, half] each."""
    rates = MAX_PERIOD ** (-np.arange(half) / half)
    angles = [np.outer(np.arange(BASE) * BASE**place, rates) for place in range(DIGITS)]
    return [(np.sin(x), np.cos(x)) for x in angles]


def _sinusoid(scope: Scope, node: Node, *positions: str) -> tuple[str, str]:
    """The tables for 0, 1 .. length - 1, or for given positions."""

    def whole(number: int) -> str:
        return scope.constant(np.array(number, np.int64))

    half: Any = node.attrs["half"]
    rest = positions[0] if positions else iota(scope, node.outputs[0].type.shape[0])
    sin = cos = ""
    for place, (sines, cosines) in enumerate(tables(half)):
        next_rest = scope.one("Div", rest, whole(BASE))
        digit = scope.one("Sub", rest, scope.one("Mul", next_rest, whole(BASE)), stem="digit")
        s, c = (scope.one("Gather", scope.constant(table), digit, axis=0) for table in (sines, cosines))
        if place:
            s, c = (
                scope.one("Add", scope.one("Mul", sin, c), scope.one("Mul", cos, s), stem="sin"),
                scope.one("Sub", scope.one("Mul", cos, c), scope.one("Mul", sin, s), stem="cos"),
            )
        sin, cos, rest = s, c, next_rest
    dtype = element_type(node.outputs[0].type.dtype)
    return scope.one("Cast", sin, to=dtype), scope.one("Cast", cos, to=dtype)


EMITTERS: dict[str, Emitter] = {"sinusoid": _sinusoid, "sinusoid_at": _sinusoid}
