"""Choices of the compiler: the values that an `auto` attribute can take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flashir.ir.graph import Attr, Node

Available = Callable[[Node], tuple[Attr, ...]]
"""node -> its possible values; empty if the attribute makes no difference to the node."""


@dataclass(frozen=True)
class Choice:
    """How an `auto` attribute gets a value.

    Args:
        values: the candidates, in order.
        phrase: a format string that displays a value.
        changes_function: whether the value changes the function that the op computes. Existing parameters lock such a
            choice, and the policy `quality` prefers later values.
        is_length: whether the values are numbers of tokens. Of those above the row length only the first is a
            candidate.
        available: the possible values of a node; None for all values.
        idle: the value for a node to which the attribute makes no difference; None for the first value.
        fitting: parameters by full name -> further values that these parameters may have been made for.
        forced: a sentence for the user if other attributes leave a node only one value.
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
        """Problems of the candidates; `check` returns the problem of one as a value of the attribute, or None."""
        if not self.values:
            yield "has no candidate"
        if len(set(self.values)) != len(self.values):
            yield f"has a candidate twice: {self.values!r}"
        yield from (f"has an invalid candidate: {problem}" for value in self.values if (problem := check(value)))

    def value_of(self, node: Node, value: Attr) -> Attr:
        """The value that an open node gets: `value`, its only possible value, or the idle value."""
        candidates = self.candidates(node)
        if not candidates:
            return self.values[0] if self.idle is None else self.idle
        return candidates[0] if len(candidates) == 1 else value

    def candidates(self, node: Node) -> tuple[Attr, ...]:
        """The possible values of a node; empty if the attribute makes no difference to it."""
        return self.values if self.available is None else self.available(node)

    def within(self, length: int, values: tuple[Attr, ...]) -> tuple[Attr, ...]:
        """The values that are candidates for rows of `length` tokens."""
        if not self.is_length:
            return values
        sizes = [value for value in values if isinstance(value, int)]
        whole = next((size for size in sizes if size >= length), sizes[-1])
        return tuple(size for size in sizes if size <= whole)

    def refusal(self, node: Node, value: Attr) -> str | None:
        """Why an open node cannot take this value, or None. A length need not be among the candidates."""
        candidates = self.candidates(node)
        if self.is_length or len(candidates) < 2 or value in candidates:
            return None
        return f"must be {' or '.join(map(str, candidates))} for this {node.op}, got {value!r}"

    def text(self, value: Attr) -> str:
        """The value as text: `chunk 256`, `cumulative sum by scan`."""
        return self.phrase.format(value)
