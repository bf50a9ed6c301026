"""Scopes for emitting nodes: the main graph, the body of a `repeat` as a function or in place, the body of a `scan`.

A function cannot see the graph around it. A shape or weight that it needs from there becomes a further input, which
every call provides for its layer. The body of a loop in a flat model is closed in the same way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper, numpy_helper

from flashir.errors import TargetError
from flashir.ir import DType, Size, TensorType, Value
from flashir.ir.dims import CeilDiv, Symbol, symbol_of
from flashir_onnx.static import Rounds, StaticValues

Dims = tuple[Size, ...]


@dataclass(frozen=True)
class Need:
    """A value from outside: the sizes `dims` as a vector, or a static `value` in some round."""

    dims: Dims | None = None
    static: StaticValues | None = None
    value: Value | None = None
    rounds: Rounds = ()

    @property
    def type(self) -> TensorType:
        """The type of the value."""
        return self.value.type if self.value is not None else TensorType(DType.I64, (len(self.dims or ()),))

    def in_round(self, symbol: str, index: int) -> Need:
        """The same need for one round of the `repeat` that `symbol` counts."""
        return self if self.static is None else replace(self, rounds=(*self.rounds, (symbol, index)))


class Scope(ABC):
    """Collects nodes of an opset, and the ONNX names of IR values."""

    def __init__(self, opset: int, taken: set[str]) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.names: dict[Value, str] = {}
        self.taken = taken
        self.few_rows = False
        """Whether products mostly have a row or two, so that a node costs more than a pass over the result."""
        self._cache: dict[Any, str] = {}

    @abstractmethod
    def constant(self, array: npt.NDArray[Any]) -> str:
        """The name of a constant."""

    @abstractmethod
    def resolve(self, need: Need) -> str:
        """The name of a value that may come from outside."""

    def op(
        self, kind: str, *inputs: str, outputs: int = 1, stem: str = "", domain: str = "", **attrs: Any
    ) -> tuple[str, ...]:
        """Emit a node and return the names of its results."""
        names = tuple(self.fresh(stem or kind.lower()) for _ in range(outputs))
        self.nodes.append(helper.make_node(kind, inputs, names, name=names[0], domain=domain, **attrs))
        return names

    def one(self, kind: str, *inputs: str, **attrs: Any) -> str:
        """Emit a node with one result."""
        return self.op(kind, *inputs, **attrs)[0]

    def shape(self, *dims: Size) -> str:
        """Sizes as an int64 vector."""
        if all(isinstance(size, int) for size in dims):
            return self.constant(np.array(dims, np.int64))
        return self.resolve(Need(dims=dims))

    def once(self, key: Hashable, make: Callable[[], str]) -> str:
        """The name that `make` emitted for this key, which it does the first time."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def fresh(self, stem: str) -> str:
        """An unused name: the stem, or `stem_k`."""
        name, count = stem, 0
        while name in self.taken:
            count += 1
            name = f"{stem}_{count}"
        self.taken.add(name)
        return name

    def _cached(self, array: npt.NDArray[Any]) -> tuple[Any, str | None]:
        key = (array.dtype.str, array.shape, array.tobytes())
        return key, self._cache.get(key)


class MainScope(Scope):
    """The main graph. Constants and weights are its initializers."""

    def __init__(self, params: Mapping[str, npt.NDArray[Any]], opset: int) -> None:
        super().__init__(opset, set())
        self.params = params
        self.symbols: dict[str, tuple[str, int]] = {}
        self.initializers: dict[str, tuple[npt.NDArray[Any], Any]] = {}

    def bind(self, name: str, value: Value) -> None:
        """Register an input, and its axes with symbolic sizes."""
        self.taken.add(name)
        self.names[value] = name
        for axis, size in enumerate(value.type.shape):
            symbol = symbol_of(size)
            if symbol is not None:
                self.symbols.setdefault(symbol, (name, axis))

    def constant(self, array: npt.NDArray[Any]) -> str:
        """An initializer. Equal constants share one."""
        key, known = self._cached(array)
        if known is None:
            known = self._cache[key] = self.fresh("constant")
            self.initializers[known] = (array, array.dtype)
        return known

    def resolve(self, need: Need) -> str:
        """Compute the sizes, or add the weight as an initializer."""
        return self.once(need, lambda: self._weight(need) if need.dims is None else self._sizes(need.dims))

    def _weight(self, need: Need) -> str:
        from flashir_onnx.types import numpy_type

        assert need.static is not None and need.value is not None
        rounds = dict(need.rounds)
        name = self.fresh(need.static.name(need.value, rounds))
        array = need.static.array(need.value, rounds, self.params)
        self.initializers[name] = (array, numpy_type(need.value.type.dtype))
        return name

    def _sizes(self, dims: Dims) -> str:
        parts = [self._size(size) for size in dims]
        return parts[0] if len(parts) == 1 else self.one("Concat", *parts, axis=0, stem="shape")

    def _size(self, size: Size) -> str:
        """A size as a vector of one element, computed as a sum of products."""
        if isinstance(size, int):
            return self.constant(np.array([size], np.int64))
        key = ("size", size)
        if key not in self._cache:
            terms = []
            for monomial, coefficient in size.terms:
                factors = [self._atom(atom) for atom in monomial]
                if coefficient != 1 or not factors:
                    factors.append(self._size(coefficient))
                terms.append(self._chain("Mul", factors))
            self._cache[key] = self._chain("Add", terms)
        return self._cache[key]

    def _atom(self, atom: Symbol | CeilDiv) -> str:
        key = ("atom", atom)
        return self.once(key, lambda: self._symbol(atom.name) if isinstance(atom, Symbol) else self._ceildiv(atom))

    def _ceildiv(self, atom: CeilDiv) -> str:
        """The number of chunks, at least one even for an empty sequence, because runtimes reject empty loops."""
        above = self._chain("Add", [self._size(atom.numerator), self._size(atom.denominator - 1)])
        return self.one("Max", self.one("Div", above, self._size(atom.denominator)), self._size(1), stem="chunks")

    def _symbol(self, symbol: str) -> str:
        if symbol not in self.symbols:
            raise TargetError(f"no input has an axis of size {symbol}", where="onnx")
        name, axis = self.symbols[symbol]
        return self.one("Shape", name, start=axis, end=axis + 1, stem=f"size_{symbol}")

    def _chain(self, kind: str, parts: list[str]) -> str:
        total = parts[0]
        for part in parts[1:]:
            total = self.one(kind, total, part, stem="size")
        return total


class ClosedScope(Scope):
    """A body that does not see the graph around it, such as a function. Values from outside become further inputs.

    Args:
        opset: the opset of its nodes.
        taken: the names that it must not use; a function has names of its own.
    """

    def __init__(self, opset: int, taken: set[str] | None = None) -> None:
        super().__init__(opset, set() if taken is None else taken)
        self.captured: dict[Need, str] = {}

    def constant(self, array: npt.NDArray[Any]) -> str:
        """A Constant node. Equal constants share one."""
        key, known = self._cached(array)
        if known is None:
            known = self._cache[key] = self.one("Constant", value=numpy_helper.from_array(array), stem="constant")
        return known

    def resolve(self, need: Need) -> str:
        """A further input."""
        if need not in self.captured:
            stem = "shape" if need.value is None else _local_name(need)
            self.captured[need] = self.fresh(stem)
        return self.captured[need]


class SubgraphScope(Scope):
    """The body of a `scan`, which sees the graph around it."""

    def __init__(self, outer: Scope) -> None:
        super().__init__(outer.opset, outer.taken)
        self.outer = outer

    def constant(self, array: npt.NDArray[Any]) -> str:
        """A constant of the outer graph."""
        return self.outer.constant(array)

    def resolve(self, need: Need) -> str:
        """A value of the outer graph."""
        return self.outer.resolve(need)


class RoundScope(SubgraphScope):
    """One round of a `repeat`, emitted in place among the nodes of the graph around it."""

    def __init__(self, outer: Scope, symbol: str, index: int) -> None:
        super().__init__(outer)
        self.nodes = outer.nodes
        self.symbol, self.index = symbol, index

    def resolve(self, need: Need) -> str:
        """A value of the outer graph, in this round."""
        return self.outer.resolve(need.in_round(self.symbol, self.index))

    def fresh(self, stem: str) -> str:
        """An unused name that tells the round, such as `layers.3/matmul`."""
        return self.outer.fresh(f"layers.{self.index}/{stem}")


def _local_name(need: Need) -> str:
    """`layers.{i}.proj_in.weight/split_3` -> `proj_in.weight/split_3`."""
    assert need.static is not None and need.value is not None
    name = need.static.name(need.value, {})
    return name.rpartition("}.")[2]
