"""The window of new tokens: the last tokens before them, which stand in a ring, and the new tokens themselves.

Position p stands in slot p mod span.

Axes: b batch, t new tokens, n slots of the ring, m what a token looks at.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from flashir.ops.decode.context import DecodeContext, column, last_positions, remainder, with_rank
from flashir.ops.functions.norm import as_dtype

if TYPE_CHECKING:
    from flashir.ir.graph import Value

Rows = Mapping[str, "Value"]
"""The rows of the new tokens by the name of their ring, [b, .., t, d]."""


class Window(ABC):
    """What new tokens look at one by one, and the rings after them.

    Args:
        now: before the new tokens.
        rings: the states by name, [b, .., n, d]. Where rows have no heads, an axis of size 1 may stand for them.
        rows: the new rows by the same names.
        span: how many tokens a token looks at, itself among them.
    """

    keys: Value
    """i32 [b, m]: the position of each; -1 or less where there is no token."""
    counted: Value
    """bool [b, m]: where there is a token, and no padding."""
    after: dict[str, Value]
    """The rings after the new tokens."""

    @staticmethod
    def of(now: DecodeContext, rings: Rows, rows: Rows, span: int) -> Window:
        """The window of one token, or of any number."""
        return (_Many if now.many else _One)(now, rings, rows, span)

    @abstractmethod
    def scores(self, q: Value, name: str) -> Value:
        """q k^T, [b, .., t, m]"""

    @abstractmethod
    def values(self, weights: Value, name: str) -> Value:
        """weights v, [b, .., t, d], in the dtype of the weights"""


class _One(Window):
    """One token of each row: it is put into the ring first, so that only `put_rows` reads the state."""

    def __init__(self, now: DecodeContext, rings: Rows, rows: Rows, span: int) -> None:
        b = self.b = now.b
        slot = remainder(b, now.positions(), span)
        self.after = {name: b.put_rows(rings[name], x, slot) for name, x in rows.items()}
        self.keys = last_positions(b, now.after(), span)
        self.counted = b.less_equal(0, self.keys)

    def scores(self, q: Value, name: str) -> Value:
        return self.b.matmul(q, as_dtype(self.b, self.after[name], q.type.dtype), transpose_y=True)

    def values(self, weights: Value, name: str) -> Value:
        return self.b.matmul(weights, as_dtype(self.b, self.after[name], weights.type.dtype))


class _Many(Window):
    """Any number of tokens: they look at the old ring and at each other side by side.

    For the last of them may take the slots of what the first of them look at. Nothing reads the rings after them, so a
    target may put the rows there once all else is computed.
    """

    def __init__(self, now: DecodeContext, rings: Rows, rows: Rows, span: int) -> None:
        b = self.b = now.b
        own, position = now.is_own(), now.positions()
        assert own is not None
        self.rows = rows
        self.rings = {name: with_rank(b, rings[name], x.type.rank) for name, x in rows.items()}
        self.slots, self.length = span + now.spare, now.length
        old = b.pad(last_positions(b, now.seen, span), axis=1, after=now.spare, value=-1)
        self.keys = b.concat(old, position, axis=1)
        self.counted = b.concat(b.less_equal(0, old), own, axis=1)
        first = column(b, b.sub(now.after(), span))
        places = now.slots(remainder(b, position, span), b.logical_and(own, b.less_equal(first, position)), span)
        self.after = {
            name: b.put_rows(rings[name], with_rank(b, x, rings[name].type.rank), places) for name, x in rows.items()
        }

    def scores(self, q: Value, name: str) -> Value:
        b, sides = self.b, (self.rings[name], self.rows[name])
        return b.concat(*(b.matmul(q, as_dtype(b, k, q.type.dtype), transpose_y=True) for k in sides), axis=-1)

    def values(self, weights: Value, name: str) -> Value:
        b, sides = self.b, (self.rings[name], self.rows[name])
        parts = b.results("split", weights, axis=-1, sizes=(self.slots, self.length))
        return b.add(*(b.matmul(w, as_dtype(b, v, w.type.dtype)) for w, v in zip(parts, sides, strict=True)))
