"""Sines and cosines of positions, without float64, which OpenVINO computes in float32.

In float32, position 10^5 is off by 10^-2 radians. So a position is written in digits to the base 64, the sines of each
digit are read from a table that is computed in float64, and the angles of the digits are added by products. A table for
0, 1, .. reads the higher digits once for 64 positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.ir import Node
from flashir.ir.dims import ceildiv
from flashir.ops.functions.position import MAX_PERIOD
from flashir_onnx.emitters import Emitter, iota, reshape
from flashir_onnx.scope import Scope
from flashir_onnx.types import element_type

BASE, DIGITS = 64, 4
"""Positions below 64^4, 16 million, are read."""

Angle = tuple[str, str, str]
"""The sine of an angle, its cosine, and its sine negated: the marks of `precision` do not hold for a subtraction."""


def tables(half: int) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """For each digit, the sines and the cosines of the angles that its values stand for, [BASE, half] each."""
    rates = MAX_PERIOD ** (-np.arange(half) / half)
    angles = [np.outer(np.arange(BASE) * BASE**place, rates) for place in range(DIGITS)]
    return [(np.sin(x), np.cos(x)) for x in angles]


def _sinusoid(scope: Scope, node: Node) -> tuple[str, str]:
    """The tables for 0, 1 .. length - 1."""
    length, half = node.outputs[0].type.shape
    rounds = ceildiv(length, BASE)
    lowest, *others = _constants(scope, node.attrs["half"])
    far: Any = tuple(
        reshape(scope, x, (rounds, half), (rounds, 1, half)) for x in _read(scope, iota(scope, rounds), others)
    )
    whole = (rounds, BASE, half)
    rows = [reshape(scope, x, whole, (rounds * BASE, half)) for x in _added(scope, far, lowest)[:2]]
    first = [scope.one("Slice", x, scope.shape(0), scope.shape(length), scope.shape(0)) for x in rows]
    return _cast(scope, node, first)


def _sinusoid_at(scope: Scope, node: Node, positions: str) -> tuple[str, str]:
    """The tables for given positions."""
    return _cast(scope, node, _read(scope, positions, _constants(scope, node.attrs["half"]))[:2])


def _constants(scope: Scope, half: Any) -> list[Angle]:
    """The tables of all digits as constants."""
    return [(scope.constant(s), scope.constant(c), scope.constant(-s)) for s, c in tables(half)]


def _read(scope: Scope, rest: str, digits: Sequence[Angle]) -> Angle:
    """The angle of whole numbers, given the tables of their digits."""
    base = scope.constant(np.array(BASE, np.int64))
    total: Any = ()
    for table in digits:
        next_rest = scope.one("Div", rest, base)
        digit = scope.one("Sub", rest, scope.one("Mul", next_rest, base), stem="digit")
        angle: Any = tuple(scope.one("Gather", x, digit, axis=0) for x in table)
        total, rest = _added(scope, total, angle) if total else angle, next_rest
    return total  # type: ignore[no-any-return]


def _added(scope: Scope, x: Angle, y: Angle) -> Angle:
    """The sum of two angles."""
    (sin_x, cos_x, minus_x), (sin_y, cos_y, minus_y) = x, y

    def sum_of(a: str, b: str, c: str, d: str, stem: str) -> str:
        return scope.one("Add", scope.one("Mul", a, b), scope.one("Mul", c, d), stem=stem)

    return (
        sum_of(sin_x, cos_y, cos_x, sin_y, "sin"),
        sum_of(cos_x, cos_y, sin_x, minus_y, "cos"),
        sum_of(minus_x, cos_y, cos_x, minus_y, "minus_sin"),
    )


def _cast(scope: Scope, node: Node, tables: Sequence[str]) -> tuple[str, str]:
    sin, cos = (scope.one("Cast", x, to=element_type(node.outputs[0].type.dtype)) for x in tables)
    return sin, cos


EMITTERS: dict[str, Emitter] = {"sinusoid": _sinusoid, "sinusoid_at": _sinusoid_at}
