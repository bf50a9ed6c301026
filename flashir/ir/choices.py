"""What the compiler may choose: the values that an attribute can get where it is `auto`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashir.ir.graph import Attr, Node

Available = Callable[["Node"], "tuple[Attr, ...]"]
"""A node -> the values that it can have; none where the attribute makes no difference to it."""


@dataclass(frozen=True)
class Choice:
    """How an attribute that is `auto` gets a value.

    Args:
        values: the candidates, in order.
        phrase: how people read a value of it.
        changes_function: whether with another value the op computes another function. Parameters lock such a choice,
            and the policy `quality` prefers later values.
        is_length: whether the values are numbers of tokens. Those beyond the first that holds a whole row are left out.
        available: which values a node can have; without it, all of them.
        idle: the value of a node to which it makes no difference; without it, the first.
        fitting: parameters by full name -> values that they may have been made for, beside `values`.
        forced: a sentence for people, where other attributes leave a node one value.
    """

    values: tuple[Attr, ...]
    phrase: str
    changes_function: bool = False
    is_length: bool = False
    available: Available | None = None
    idle: Attr = None
    fitting: Callable[[Mapping[str, Any]], Iterable[int]] | None = None
    forced: str = ""

    def problems(self, check: Callable[[Attr], str | None]) -> Iterator[str]:
        """What is wrong with its values, given what is wrong with one as a value of the attribute."""
        if not self.values:
            yield "has no candidate"
        if len(set(self.values)) != len(self.values):
            yield f"has a candidate twice: {self.values!r}"
        yield from (f"has a candidate that cannot be: {told}" for value in self.values if (told := check(value)))

    def value_of(self, node: Node, value: Attr) -> Attr:
        """What an open node gets: that value, or the one it must have, or may as well have."""
        candidates = self.candidates(node)
        if not candidates:
            return self.values[0] if self.idle is None else self.idle
        return candidates[0] if len(candidates) == 1 else value

    def candidates(self, node: Node) -> tuple[Attr, ...]:
        """The values that a node can have; none where the attribute makes no difference to it."""
        return self.values if self.available is None else self.available(node)

    def within(self, length: int, values: tuple[Attr, ...]) -> tuple[Attr, ...]:
        """Of some values, those for rows of that many tokens."""
        if not self.is_length:
            return values
        sizes = [value for value in values if isinstance(value, int)]
        whole = next((size for size in sizes if size >= length), sizes[-1])
        return tuple(size for size in sizes if size <= whole)

    def refusal(self, node: Node, value: Attr) -> str | None:
        """Why an open node cannot be given that value by hand; a length need not be among the candidates."""
        candidates = self.candidates(node)
        if self.is_length or len(candidates) < 2 or value in candidates:
            return None
        return f"must be {' or '.join(map(str, candidates))} for this {node.op}, got {value!r}"

    def said(self, value: Attr) -> str:
        """A value for people: `chunk 256`, `cumulative sum by scan`."""
        return self.phrase.format(value)
