"""Value, Node and Graph: the data structure of the compiler. All are frozen; passes build new graphs.

A graph is in topological order by construction. Regions (the bodies of `repeat` and `scan`) are separate graphs that
see only their inputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar

from flashir.ir.dims import Dim
from flashir.ir.limits import LONGEST_NAME
from flashir.ir.types import DType, TensorType

MODEL_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_.+-]{{0,{LONGEST_NAME - 1}}}\Z")  # as in the grammar
VALUE_NAME = re.compile(rf"[A-Za-z_0-9][A-Za-z0-9_.]{{0,{LONGEST_NAME - 1}}}\Z")


class Auto:
    """The attribute value `auto`: an open choice. Its only instance is `AUTO`."""

    def __repr__(self) -> str:
        return "auto"


AUTO = Auto()
"""The value of an attribute that the compiler chooses."""

Attr = int | float | str | bool | Auto | Dim | DType | tuple["Attr", ...] | None
Attrs = Mapping[str, Attr]


@dataclass(frozen=True)
class Value:
    """A typed name, unique in its graph."""

    name: str
    type: TensorType

    def __str__(self) -> str:
        return f"%{self.name}"

    def __hash__(self) -> int:
        """Hash the name only. It is unique in a graph, and hashing the type as well would be slow."""
        return hash(self.name)


@dataclass(frozen=True)
class Node:
    """One application of an op. An absent optional operand is None."""

    op: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    attrs: Attrs = field(default_factory=dict, hash=False)
    region: Graph | None = None
    verified: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    def mark_verified(self) -> None:
        """Note that its attributes and the types of its results are right: nothing in it changes."""
        object.__setattr__(self, "verified", True)

    @cached_property
    def operands(self) -> tuple[Value, ...]:
        """The inputs without absent ones."""
        return tuple(value for value in self.inputs if value is not None)

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]


@dataclass(frozen=True)
class Graph:
    """A function from inputs to outputs: nodes in topological order."""

    name: str
    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]

    def __deepcopy__(self, memo: object) -> Graph:
        """Itself: nothing in it changes."""
        return self

    def walk(self) -> Iterator[Node]:
        """Every node, including those in regions, which follow the node that holds them."""
        for node in self.nodes:
            yield node
            if node.region is not None:
                yield from node.region.walk()

    def producers(self) -> dict[Value, Node]:
        """The node that computes each value."""
        return {value: node for node in self.nodes for value in node.outputs}
