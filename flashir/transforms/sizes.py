"""Symbolic sizes: bind them to the shapes of inputs, and substitute them in a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from flashir.errors import FlashirError, InputError, IRError
from flashir.ir.dims import Dim, evaluate, symbol_of, symbols
from flashir.ir.graph import Attr, Graph
from flashir.ir.text.printer import attr_text
from flashir.transforms.rewriter import rewrite


def check_sizes(graph: Graph) -> None:
    """Raises IRError if a type or an attribute has a symbolic size that is not the size of an input axis."""
    known = {symbol_of(size) for value in graph.inputs for size in value.type.shape}
    problems: dict[str, None] = {}
    for value in graph.inputs:
        for name in sorted(_symbols(value.type.shape) - known):
            problems[f"the input {value}: {value.type} has the size {name}, {_unbound(name)}"] = None
    for node in graph.walk():
        for attr, size in node.attrs.items():
            for name in sorted(_symbols(size) - known):
                problems[f"{attr} = {attr_text(size)} of {node.op} has the size {name}, {_unbound(name)}"] = None
    if problems:
        raise IRError(problems, where=f"@{graph.name}")


def _unbound(name: str) -> str:
    return f"and no input has an axis that is {name} alone"


def _symbols(attr: Attr) -> frozenset[str]:
    """The symbols in an attribute, also in lists."""
    if isinstance(attr, tuple):
        return frozenset[str]().union(*map(_symbols, attr))
    return symbols(attr) if isinstance(attr, Dim) else frozenset()


def bind_sizes(graph: Graph, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """The values of the symbols in the input types, given input shapes. Raises InputError if a shape does not match."""
    sizes: dict[str, int] = {}
    problems = []
    for value, shape in zip(graph.inputs, shapes, strict=True):
        if len(shape) != value.type.rank:
            problems.append(f"{value.name} must have {value.type.rank} axes, as {value.type}, got shape {shape}")
            continue
        for axis, (wanted, got) in enumerate(zip(value.type.shape, shape, strict=True)):
            name = symbol_of(wanted)
            expected = wanted if name is None else sizes.setdefault(name, got)
            if not isinstance(expected, Dim) and expected != got:
                problems.append(f"axis {axis} of {value.name} ({value.type}) must be {expected}, got {got}")
    for value, shape in () if problems else zip(graph.inputs, shapes, strict=True):
        for axis, (wanted, got) in enumerate(zip(value.type.shape, shape, strict=True)):
            unknown = symbols(wanted) - set(sizes)
            if unknown:
                problems.append(f"axis {axis} of {value.name} is {wanted}: no input has an axis {min(unknown)}")
            elif evaluate(wanted, sizes) != got:
                problems.append(
                    f"axis {axis} of {value.name} ({value.type}) must be {evaluate(wanted, sizes)}, got {got}"
                )
    if problems:
        raise InputError(problems)
    return sizes


def specialise(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """The graph with every size a number. This checks that each op supports the sizes.

    Args:
        graph: a graph at any level.
        sizes: the value of each symbol, as from `bind_sizes`.

    Raises:
        InputError: an op rejects the sizes, for example a sequence longer than its `max_len`.
    """
    return _specialised(_Same(graph), tuple(sizes.items()))


@dataclass(frozen=True, eq=False)
class _Same:
    """A graph compared by identity: graphs with 0.0 and -0.0 are equal but compute different functions."""

    graph: Graph

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.graph is other.graph

    def __hash__(self) -> int:
        return id(self.graph)


@lru_cache(maxsize=32)
def _specialised(same: _Same, sizes: tuple[tuple[str, int], ...]) -> Graph:
    try:
        check_sizes(same.graph)
        return rewrite(same.graph, sizes=dict(sizes))
    except FlashirError as error:
        shown = ", ".join(f"{name} = {size}" for name, size in sizes)
        raise InputError(error.problems, where=f"with {shown}" if shown else "", hint=error.hint) from None
