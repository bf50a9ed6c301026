"""The window of new tokens: the last tokens before them, which are in a ring, and the new tokens themselves.

Position p is in slot p mod span.

Axes: b batch, t new tokens, n slots of the ring, m positions that a token attends to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from flashir.ir.graph import Value
from flashir.ops.decode.context import DecodeContext, column, last_positions, put, remainder, with_rank
from flashir.ops.functions.norm import as_dtype

Rows = Mapping[str, "Value"]
"""The rows of the new tokens by the name of their ring, [b, .., t, d]."""


class Window(ABC):
    """The positions that new tokens attend to, and the rings after them.

    Args:
        now: the context before the new tokens.
        rings: the states by name, [b, .., n, d]. If rows have no heads, an axis of size 1 may replace them.
        rows: the new rows by the same names.
        span: the number of tokens that a token attends to, including itself.
    """

    keys: Value
    """i32 [b, m]: the positions; negative if there is no token."""
    counted: Value
    """bool [b, m]: False for padding and for missing tokens."""
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

    @abstractmethod
    def with_scores(self, weights: Value | None, seen: Value, q: Value, name: str) -> Value | None:
        """weights + q k^T where seen, bool [b, t, m]; None without weights, if one token cannot see such a k"""

    @abstractmethod
    def with_products(self, total: Value, counted: Value, k: str, v: str) -> Value:
        """total + k^T v of the counted rows, bool [b, m]; the total is [b, .., s, e]"""


class _One(Window):
    """One token of each row: it is put into the ring first, so that only `put_rows` reads the state."""

    def __init__(self, now: DecodeContext, rings: Rows, rows: Rows, span: int) -> None:
        b = self.b = now.b
        slot = remainder(b, now.positions(), span)
        self.after = {name: put(b, rings[name], x, slot) for name, x in rows.items()}
        self.keys = last_positions(b, now.after(), span)
        self.counted = b.less_equal(0, self.keys)

    def scores(self, q: Value, name: str) -> Value:
        return self.b.matmul(q, as_dtype(self.b, self.after[name], q.type.dtype), transpose_y=True)

    def values(self, weights: Value, name: str) -> Value:
        return self.b.matmul(weights, as_dtype(self.b, self.after[name], weights.type.dtype))

    def with_scores(self, weights: Value | None, seen: Value, q: Value, name: str) -> Value | None:
        return weights  # its chunk is the open one, before which all chunks are summed

    def with_products(self, total: Value, counted: Value, k: str, v: str) -> Value:
        return self.b.add_products(total, counted, self.after[k], self.after[v])


class _Many(Window):
    """Any number of tokens, which attend to the old ring and to each other.

    The last of them may overwrite the slots that the first of them attend to. Nothing reads the new rings, so a target
    may write the rows there after everything else.
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
        self.after = {name: put(b, rings[name], x, places) for name, x in rows.items()}

    def scores(self, q: Value, name: str) -> Value:
        b, sides = self.b, (self.rings[name], self.rows[name])
        return b.concat(*(b.matmul(q, as_dtype(b, k, q.type.dtype), transpose_y=True) for k in sides), axis=-1)

    def values(self, weights: Value, name: str) -> Value:
        b, sides = self.b, (self.rings[name], self.rows[name])
        parts = b.results("split", weights, axis=-1, sizes=(self.slots, self.length))
        return b.add(*(b.matmul(w, as_dtype(b, v, w.type.dtype)) for w, v in zip(parts, sides, strict=True)))

    def with_scores(self, weights: Value | None, seen: Value, q: Value, name: str) -> Value:
        b = self.b
        if weights is None:
            shape = (*q.type.shape[:-1], seen.type.shape[-1])
            weights = b.broadcast(b.constant(0.0, q.type.dtype), shape=shape)
        return b.add_scores(weights, seen, q, self.rings[name], self.rows[name])

    def with_products(self, total: Value, counted: Value, k: str, v: str) -> Value:
        return self.b.add_products(total, counted, self.rings[k], self.rings[v], self.rows[k], self.rows[v])
