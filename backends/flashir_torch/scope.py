"""Scopes for emitting nodes: the main graph, or the graph of a submodule (a layer, the body of a `scan`).

A submodule cannot see the graph around it. A size or parameter that it needs from there becomes a further input.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from flashir.errors import TargetError
from flashir.ir import Dim, DType, Size, Value
from flashir.ir.dims import CeilDiv, Symbol, symbol_of
from flashir_torch.names import attribute_path, identifier
from flashir_torch.reuse import TYPE, reuse
from flashir_torch.types import TYPES

Made = fx.Node | float | int | bool
"""The emitted form of a value: a node, or the number of a constant."""

Parameters = Callable[[str], torch.nn.Parameter]
"""Full name -> parameter; always the same object for a name."""


class Scope(ABC):
    """A graph under construction, and the emitted form of each IR value.

    Args:
        parameters: returns parameters by name.
        exporting: whether it is for `torch.export`, where decisions must not depend on sizes.
    """

    def __init__(self, parameters: Parameters, exporting: bool) -> None:
        self.parameters = parameters
        self.exporting = exporting
        self.graph = fx.Graph()
        self.values: dict[Value, Made] = {}
        self.attributes: dict[str, Any] = {}
        self.hint = ""

    @abstractmethod
    def parameter(self, name: str) -> fx.Node:
        """The parameter of this full name."""

    @abstractmethod
    def size(self, size: Size) -> fx.Node | int:
        """A size, as a number or as a node that computes it."""

    @abstractmethod
    def device(self) -> fx.Node | None:
        """The device that the graph runs on; None if unknown."""

    def call(self, function: Callable[..., Any], *args: Any, stem: str = "", **kwargs: Any) -> fx.Node:
        """Emit `stem = function(*args, **kwargs)`; the default stem is the name of the current value."""
        return self.graph.create_node("call_function", function, args, kwargs, identifier(stem or self.hint))

    def method(self, name: str, *args: Any, stem: str = "", **kwargs: Any) -> fx.Node:
        """Emit `stem = args[0].name(*args[1:], **kwargs)`."""
        return self.graph.create_node("call_method", name, args, kwargs, identifier(stem or self.hint))

    def attribute(self, path: str, content: Any) -> fx.Node:
        """Emit `self.path`, and add the attribute to the module."""
        path = attribute_path(path)
        self.attributes[path] = content
        return self.graph.create_node("get_attr", path, name=identifier(path.replace(".", "_")))

    def submodule(self, path: str, content: torch.nn.Module, *args: Any) -> fx.Node:
        """Emit `self.path(*args)`, and add the submodule."""
        path = attribute_path(path)
        self.attributes[path] = content
        return self.graph.create_node("call_module", path, args, name=identifier(path.replace(".", "_")))

    def shape(self, sizes: Sequence[Size]) -> tuple[fx.Node | int, ...]:
        """Several sizes, as for `size`."""
        return tuple(self.size(size) for size in sizes)

    def full(self, shape: Sequence[Size], value: Any, dtype: DType, stem: str = "") -> fx.Node:
        """A new tensor filled with a number."""
        return self.call(torch.full, self.shape(shape), value, **self.like(dtype), stem=stem)

    def like(self, dtype: DType) -> dict[str, Any]:
        """The dtype and device arguments for a new tensor."""
        device = self.device()
        return {"dtype": TYPES[dtype], **({} if device is None else {"device": device})}

    def tensor(self, value: Value) -> fx.Node:
        """The value as a tensor node; a constant becomes a tensor of shape []."""
        emitted = self.values[value]
        if not isinstance(emitted, fx.Node):
            emitted = self.values[value] = self.full((), emitted, value.type.dtype, stem=value.name)
        return emitted

    def stands_for(self, value: Value, result: Made) -> None:
        """Register the emitted form of a value; a node stores its type."""
        self.values[value] = result
        if isinstance(result, fx.Node):
            result.meta.setdefault(TYPE, value.type)

    def results(self, result: fx.Node, outputs: Sequence[Value], *, several: bool) -> dict[Value, fx.Node]:
        """The nodes of the results of a call: the items of a tuple if `several`, otherwise the call itself."""
        if not several:
            return {outputs[0]: result}
        return {v: self.call(operator.getitem, result, i, stem=v.name) for i, v in enumerate(outputs)}

    def finish(self, outputs: Sequence[Value], name: str, *, several: bool) -> fx.GraphModule:
        """The finished module. It returns a tuple if `several`."""
        results = tuple(self.tensor(value) for value in outputs)
        self.graph.output(results if several else results[0])
        reuse(self.graph)
        for node in reversed(self.graph.nodes):
            if not node.users and node.op in ("call_function", "call_method", "get_attr"):
                self.graph.erase_node(node)
        return fx.GraphModule(self.attributes, self.graph, class_name=name)


class MainScope(Scope):
    """The main graph: sizes come from its inputs, parameters are its attributes."""

    def __init__(self, parameters: Parameters, inputs: Sequence[Value], exporting: bool) -> None:
        super().__init__(parameters, exporting)
        self._read: dict[str, tuple[fx.Node, int]] = {}
        self._sizes: dict[Any, fx.Node] = {}
        self._loaded: dict[str, fx.Node] = {}
        self._device: fx.Node | None = None
        taken: set[str] = set()
        for value in inputs:
            name = identifier(value.name)
            while name in taken:
                name += "_"
            taken.add(name)
            self.values[value] = self.graph.create_node("placeholder", name, name=name)
        for value in inputs:
            self._bind(value)

    def _bind(self, value: Value) -> None:
        """Record the axes of symbolic sizes. An input with known sizes gets a view of them, so that they must agree."""
        node = self.values[value]
        assert isinstance(node, fx.Node)
        known = False
        for axis, size in enumerate(value.type.shape):
            symbol = symbol_of(size)
            if symbol is not None:
                known = known or symbol in self._read
                self._read.setdefault(symbol, (node, axis))
        if known:
            self.values[value] = self.method("view", node, self.shape(value.type.shape), stem=node.name)

    def parameter(self, name: str) -> fx.Node:
        """The parameter as an attribute under its full name."""
        if name not in self._loaded:
            self._loaded[name] = self.attribute(name, self.parameters(name))
        return self._loaded[name]

    def device(self) -> fx.Node | None:
        """The device of the first input or parameter."""
        if self._device is None:
            first = next((node for node in self.graph.nodes if node.op in ("placeholder", "get_attr")), None)
            if first is not None:
                self._device = self.call(getattr, first, "device", stem="place")
        return self._device

    def size(self, size: Size) -> fx.Node | int:
        """A size as a sum of products of input sizes."""
        if isinstance(size, int):
            return size
        if size not in self._sizes:
            total: Any = 0
            for monomial, coefficient in sorted(size.terms, key=lambda term: term[1] < 0):
                product: Any = abs(coefficient)
                for atom in monomial:
                    factor = self._atom(atom)
                    product = factor if product == 1 else self.call(operator.mul, product, factor, stem="size")
                if coefficient > 0:
                    total = product if total == 0 else self.call(operator.add, total, product, stem="size")
                else:
                    total = self.call(operator.sub, total, product, stem="size")
            self._sizes[size] = total
        return self._sizes[size]

    def _atom(self, atom: Symbol | CeilDiv) -> fx.Node:
        if atom not in self._sizes:
            self._sizes[atom] = self._symbol(atom.name) if isinstance(atom, Symbol) else self._ceildiv(atom)
        return self._sizes[atom]

    def _ceildiv(self, atom: CeilDiv) -> fx.Node:
        """The number of chunks, at least one even for an empty sequence, so that loops need no special case."""
        above = self.size(atom.numerator + (atom.denominator - 1))
        whole = self.call(operator.floordiv, above, atom.denominator, stem="chunks")
        return self.call(torch.sym_max, whole, 1, stem="chunks")

    def _symbol(self, symbol: str) -> fx.Node:
        if symbol not in self._read:
            raise TargetError(f"no input has an axis of size {symbol}", where="torch")
        node, axis = self._read[symbol]
        return self.method("size", node, axis, stem=symbol)


class InnerScope(Scope):
    """The graph of a submodule.

    Args:
        outer: the scope that calls it.
        inputs: its inputs.
        prefix: the prefix of its own parameters; others are captured.
    """

    def __init__(self, outer: Scope, inputs: Sequence[Value], prefix: str = "") -> None:
        super().__init__(outer.parameters, outer.exporting)
        self.outer = outer
        self.prefix = prefix
        self.captured: list[fx.Node | int] = []
        self._inside: dict[Any, fx.Node] = {}
        self._last: fx.Node | None = None
        self._device: fx.Node | None = None
        for value in inputs:
            self.values[value] = self._placeholder(value.name)

    def parameter(self, name: str) -> fx.Node:
        """An own parameter as an attribute without the prefix, or an input."""
        if not self.prefix or not name.startswith(self.prefix):
            return self._capture(name, name, lambda: self.outer.parameter(name))
        if name not in self._inside:
            self._inside[name] = self.attribute(name.removeprefix(self.prefix), self.parameters(name))
        return self._inside[name]

    def size(self, size: Size) -> fx.Node | int:
        """A number, or an input for a symbolic size."""
        if isinstance(size, int):
            return size
        return self._capture(size, _stem(size), lambda: self.outer.size(size))

    def device(self) -> fx.Node | None:
        """The device of the first input."""
        if self._device is None:
            first = next(iter(self.values.values()))
            self._device = self.call(getattr, first, "device", stem="place")
        return self._device

    def _capture(self, key: Any, stem: str, outside: Callable[[], Any]) -> fx.Node:
        if key not in self._inside:
            self.captured.append(outside())
            self._inside[key] = self._placeholder(stem)
        return self._inside[key]

    def _placeholder(self, stem: str) -> fx.Node:
        """A further input, placed before the first op."""
        name = identifier(stem)
        taken = {node.name for node in self.graph.nodes}
        while name in taken:
            name += "_"
        first = self._last is None
        with self.graph.inserting_before(None) if first else self.graph.inserting_after(self._last):
            self._last = self.graph.create_node("placeholder", name, name=name)
        return self._last


def _stem(size: Dim) -> str:
    match size.terms:
        case (((Symbol(name=name),), 1),):
            return name
        case (((CeilDiv(),), 1),):
            return "chunks"
    return "size"
