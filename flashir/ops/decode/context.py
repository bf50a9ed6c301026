"""The positions of the tokens of a call, and helpers for the states that ops keep between calls.

Axes: b batch, t new tokens, n slots of a state, m attended positions. Each row of a batch has its own position.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from flashir.errors import SettingError, option
from flashir.ir.builder import Builder
from flashir.ir.dims import Size
from flashir.ir.graph import Value
from flashir.ir.types import DType
from flashir.ops.functions.norm import as_dtype

SPARE = 1
"""The spare slots of a state for any number of tokens: one takes the tokens that are not kept."""


@dataclass(frozen=True)
class DecodeContext:
    """The positions of the rows of a batch in their sequences.

    Args:
        b: the builder of the graph.
        seen: i32 [b]. After a prompt, the number of tokens of each row; before new tokens, the number of earlier ones.
        length: t, the tokens of a call, including padding.
        own: i32 [b], how many of the t tokens belong to each row; padding follows them. None for all.
        many: whether later calls take any number of tokens. Their states have a spare slot, which takes the tokens that
            are not kept.
        max_len: the number of tokens that a cache holds; None if it is not set.
        kept: the type in which rings and caches hold rows; None for the type of the rows.
    """

    b: Builder
    seen: Value
    length: Size
    own: Value | None = None
    many: bool = False
    max_len: int | None = None
    kept: DType | None = None

    @property
    def batch(self) -> Size:
        """b, the rows."""
        return self.seen.type.shape[0]

    @property
    def spare(self) -> int:
        """The number of spare slots of a state."""
        return SPARE if self.many else 0

    @property
    def room(self) -> int:
        """The number of tokens that a cache holds. Raises SettingError if it is not set."""
        if self.max_len is None:
            raise SettingError(
                "it keeps every token, so max_len must say how many", hint=f"such as {option('max_len', 4096)}"
            )
        return self.max_len

    def positions(self) -> Value:
        """i32 [b, t]: the positions of the new tokens."""
        return self.b.add(column(self.b, self.seen), self.b.iota(length=self.length))

    def after(self) -> Value:
        """i32 [b]: the number of tokens of each row after the new ones."""
        return self.b.add(self.seen, self.b.size(value=self.length) if self.own is None else self.own)

    def is_own(self) -> Value | None:
        """bool [b, t]: which tokens belong to the row; None if all do."""
        if self.own is None:
            return None
        return self.b.less(self.b.iota(length=self.length), column(self.b, self.own))

    def only_own(self, x: Value) -> Value:
        """[b, .., t, d] with zeros in place of padding."""
        own = self.is_own()
        return x if own is None else self.b.select(with_rank(self.b, column(self.b, own), x.type.rank), x, 0.0)

    def slots(self, wanted: Value, kept: Value, spare: int) -> Value:
        """i32 [b, t]: the wanted slots, and the spare one for tokens that are not kept."""
        b = self.b
        return b.select(kept, wanted, b.add(b.mul(wanted, 0), spare))


def column(b: Builder, x: Value) -> Value:
    """[.., n] -> [.., n, 1]"""
    return b.reshape(x, shape=(*x.type.shape, 1))


def with_rank(b: Builder, x: Value, rank: int) -> Value:
    """[b, t, m] <-> [b, 1, .., t, m], to broadcast with a value of this rank; scalars stay"""
    if x.type.rank in (0, rank):
        return x
    batch, *rest = x.type.shape
    return b.reshape(x, shape=(batch, *(1,) * (rank - x.type.rank), *rest[max(0, x.type.rank - rank) :]))


def equal(b: Builder, x: Any, y: Any) -> Value:
    """Whether whole numbers are the same."""
    return b.logical_and(b.less_equal(x, y), b.less_equal(y, x))


def remainder(b: Builder, x: Value, divisor: int) -> Value:
    """x mod divisor, for whole numbers from 0"""
    return b.sub(x, b.mul(b.floor_div(x, divisor=divisor), divisor))


def take_rows(b: Builder, x: Value, index: Value) -> Value:
    """x [b, .., t, d] and i32 [b, n] -> [b, .., n, d]: the rows with these numbers, for each row of the batch"""
    *lead, length, d = x.type.shape
    matrices = prod(lead, start=1)
    first = b.mul(b.iota(length=matrices), b.size(value=length))
    spread = (lead[0], *(1,) * (len(lead) - 1), index.type.shape[1])
    numbers = b.add(b.reshape(first, shape=(*lead, 1)), b.reshape(index, shape=spread))
    return b.gather(b.reshape(x, shape=(matrices * length, d)), numbers)


def last_positions(b: Builder, seen: Value, slots: int) -> Value:
    """i32 [b, n]: the last position before `seen` in each slot of a ring; negative if there is none

    Position p is in slot p mod n.
    """
    back = remainder(b, b.sub(column(b, b.add(seen, slots - 1)), b.iota(length=slots)), slots)
    return b.sub(column(b, b.sub(seen, 1)), back)


def ring_after(now: DecodeContext, x: Value, span: int) -> Value:
    """[b, .., t, d] of a prompt -> [b, .., n, d], its last tokens in their slots; other slots are finite"""
    last = take_rows(now.b, as_kept(now, x), now.b.maximum(last_positions(now.b, now.seen, span), 0))
    return now.b.pad(last, axis=x.type.rank - 2, after=now.spare) if now.spare else last


def cache_after(now: DecodeContext, x: Value) -> Value:
    """[b, .., t, d] of a prompt -> [b, .., m, d], each token at its position"""
    return of_size(now.b, as_kept(now, x), x.type.rank - 2, now.room + now.spare)


def as_kept(now: DecodeContext, x: Value) -> Value:
    """Rows in the type in which rings and caches hold them."""
    return x if now.kept is None else as_dtype(now.b, x, now.kept)


def put(b: Builder, state: Value, x: Value, places: Value) -> Value:
    """A ring or cache with new rows, in its type, at these places."""
    return b.put_rows(state, as_dtype(b, with_rank(b, x, state.type.rank), state.type.dtype), places)


def of_size(b: Builder, x: Value, axis: int, count: int) -> Value:
    """The first `count` elements of an axis, padded with zeros."""
    return b.slice(b.pad(x, axis=axis, after=count), axis=axis, stop=count)


def put_in_cache(now: DecodeContext, cache: Value, x: Value) -> Value:
    """[b, .., m, d] with new rows [b, .., t, d], each at its position"""
    places, own = now.positions(), now.is_own()
    places = places if own is None else now.slots(places, own, now.room)
    return put(now.b, cache, x, places)


def visible_slots(now: DecodeContext) -> Value:
    """bool [b, t, m]: whether position m of a cache is not after the token"""
    return now.b.less_equal(now.b.iota(length=now.room + now.spare), column(now.b, now.positions()))
