"""StatefulBackend an op token by token: what it keeps, how a prompt leaves it, how a step uses and renews it.

Axes: b batch, t new tokens, n slots of a state, m what a token looks at. Each row of a batch has its own position.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from flashir.errors import SettingError, option
from flashir.ir.dims import Size

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Value


@dataclass(frozen=True)
class DecodeContext:
    """Where in their sequences the rows of a batch are.

    Args:
        b: the builder of the graph in the making.
        seen: i32 [b]. After a prompt, how many of its tokens are each row's own; in a step, how many came before it.
        length: t, the tokens of the prompt, padding among them, or of the step.
        tokens: how many a step takes at most.
        max_len: how many tokens a cache holds; None where nobody has said.
    """

    b: Builder
    seen: Value
    length: Size
    tokens: int = 1
    max_len: int | None = None

    @property
    def batch(self) -> Size:
        """b, the rows."""
        return self.seen.type.shape[0]

    @property
    def room(self) -> int:
        """How many tokens a cache holds. Raises SettingError where nobody has said."""
        if self.max_len is None:
            raise SettingError(
                "it keeps every token, so max_len must say how many", hint=f"such as {option('max_len', 4096)}"
            )
        return self.max_len

    def positions(self) -> Value:
        """i32 [b, t]: those of the new tokens."""
        return self.b.add(column(self.b, self.seen), self.b.iota(length=self.length))

    def ring(self, span: int) -> int:
        """n, the slots of a ring in which the `span` tokens up to each new one stand after a step."""
        return span + self.tokens - 1

    def is_token(self) -> Value:
        """bool [b, t]: which tokens of a prompt are the row's own; what pads it stands after them."""
        return self.b.less(self.b.iota(length=self.length), column(self.b, self.seen))


def column(b: Builder, x: Value) -> Value:
    """[.., n] -> [.., n, 1]"""
    return b.reshape(x, shape=(*x.type.shape, 1))


def under_heads(b: Builder, x: Value, rank: int) -> Value:
    """[b, t, m] -> [b, 1, .., t, m], to stand beside a value of that rank; a number stays one"""
    if x.type.rank in (0, rank):
        return x
    batch, *rest = x.type.shape
    return b.reshape(x, shape=(batch, *(1,) * (rank - x.type.rank), *rest))


def equal(b: Builder, x: Any, y: Any) -> Value:
    """Whether whole numbers are the same."""
    return b.logical_and(b.less_equal(x, y), b.less_equal(y, x))


def remainder(b: Builder, x: Value, divisor: int) -> Value:
    """x mod divisor, of whole numbers that are not negative"""
    return b.sub(x, b.mul(b.floor_div(x, divisor=divisor), divisor))


def take_rows(b: Builder, x: Value, index: Value) -> Value:
    """x [b, .., t, d] and i32 [b, n] -> [b, .., n, d]: rows by number, those of each row of the batch"""
    *lead, length, d = x.type.shape
    matrices = prod(lead, start=1)
    first = b.mul(b.iota(length=matrices), b.size(value=length))
    spread = (lead[0], *(1,) * (len(lead) - 1), index.type.shape[1])
    numbers = b.add(b.reshape(first, shape=(*lead, 1)), b.reshape(index, shape=spread))
    return b.gather(b.reshape(x, shape=(matrices * length, d)), numbers)


def last_positions(b: Builder, seen: Value, slots: int) -> Value:
    """i32 [b, n]: the last position before `seen` that falls into each slot of a ring, -1 or less where none has

    Position p stands in slot p mod n.
    """
    back = remainder(b, b.sub(column(b, b.add(seen, slots - 1)), b.iota(length=slots)), slots)
    return b.sub(column(b, b.sub(seen, 1)), back)


def ring_after(now: DecodeContext, x: Value, slots: int) -> Value:
    """[b, .., t, d] of a prompt -> [b, .., n, d], its last tokens, each in its slot; what fills the others is finite"""
    return take_rows(now.b, x, now.b.maximum(last_positions(now.b, now.seen, slots), 0))


def ring_step(now: DecodeContext, ring: Value, x: Value) -> Value:
    """[b, .., n, d] with new rows [b, .., t, d], each in its slot"""
    slots = ring.type.shape[-2]
    assert isinstance(slots, int)
    return now.b.put_rows(ring, x, remainder(now.b, now.positions(), slots))


def cache_after(now: DecodeContext, x: Value) -> Value:
    """[b, .., t, d] of a prompt -> [b, .., max_len, d], each token at its position"""
    axis = x.type.rank - 2
    return now.b.slice(now.b.pad(x, axis=axis, after=now.room), axis=axis, stop=now.room)


def visible_slots(now: DecodeContext) -> Value:
    """bool [b, t, m]: whether position m of a cache is not after the token"""
    return now.b.less_equal(now.b.iota(length=now.room), column(now.b, now.positions()))
