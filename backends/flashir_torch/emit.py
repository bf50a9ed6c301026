"""Lowered graph -> torch.fx.GraphModule. Every layer of a `repeat` becomes a module inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from flashir.errors import ParameterError, TargetError
from flashir.ir import Graph, Node
from flashir.ir.parameter_names import expand, full_name, round_symbol
from flashir.ops.primitive.scan import cut_scan
from flashir_torch.emitters import EMITTERS, NUMBERS
from flashir_torch.loop import scan
from flashir_torch.names import check_path
from flashir_torch.parts import Part, parts
from flashir_torch.scope import InnerScope, MainScope, Scope
from flashir_torch.types import TYPES

STRUCTURED = frozenset(("repeat", "scan", "param"))

Rounds = Mapping[str, int]
"""The number of the round of each `repeat` around a node, by its symbol."""


def module(graph: Graph, params: Mapping[str, Any], *, exporting: bool = False) -> fx.GraphModule:
    """The module of a lowered graph, to run, train or compile. Its arguments are the graph's inputs, in order.

    Parameters are registered under their full names, which `state_dict` gives back; the layers of a `repeat` are
    modules of their own: `layers.0`, `layers.1`, ..

    Args:
        graph: lowered for PyTorch, as `flashir.backends.lowering.Lowering.of("torch:cpu")` does.
        params: arrays by full name, which are copied; or parameters of PyTorch, which become those of the module.
        exporting: make it for `torch.export`: no size decides what is copied, at the price of a few copies.

    Raises:
        TargetError: the graph holds ops that PyTorch has no emitter for.
        ParameterError: a parameter is missing or misshapen, or a name is none that a module can have.
    """
    unknown = sorted({node.op for node in graph.walk()} - EMITTERS.keys() - STRUCTURED)
    if unknown:
        raise TargetError(
            f"PyTorch has no emitter for {', '.join(unknown)} of @{graph.name}",
            where="torch",
            hint="lower the graph first: flashir_torch.lower(model)",
        )
    return _Emitter(params, exporting).run(graph)


class _Emitter:
    """Walks a graph and its regions; keeps the parameters, one object each, and the layers."""

    def __init__(self, params: Mapping[str, Any], exporting: bool) -> None:
        self.arrays = params
        self.exporting = exporting
        self.parameters: dict[str, nn.Parameter] = {}
        self.types: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        self.layers: set[str] = set()

    def run(self, graph: Graph) -> fx.GraphModule:
        main = MainScope(self.parameter, graph.inputs, self.exporting)
        self.nodes(main, graph.nodes, {})
        return main.finish(graph.outputs, "Model", several=len(graph.outputs) != 1)

    def nodes(self, scope: Scope, nodes: Sequence[Node], rounds: Rounds) -> None:
        for node in nodes:
            scope.hint = node.output.name if node.outputs else node.op
            made = self.node(scope, node, rounds)
            results = made if isinstance(made, tuple) else (made,)
            for value, result in zip(node.outputs, results, strict=True):
                scope.stands_for(value, result)

    def node(self, scope: Scope, node: Node, rounds: Rounds) -> Any:
        if node.op == "param":
            return scope.parameter(self.declared(node, rounds))
        if node.op == "repeat":
            return self.repeat(scope, node, rounds)
        if node.op == "scan":
            return self.scan(scope, node, rounds)
        numbers = node.op in NUMBERS and any(isinstance(scope.values[v], fx.Node) for v in node.operands[-2:])
        operands = [scope.values[v] if numbers else scope.tensor(v) for v in node.operands]
        return EMITTERS[node.op](scope, node, *operands)

    def declared(self, node: Node, rounds: Rounds) -> str:
        """The full name of a parameter in this round."""
        name = expand(full_name(node, str(node.attrs["name"])), rounds)
        type_ = (node.output.type.sizes, TYPES[node.output.type.dtype])
        if self.types.setdefault(check_path(name), type_) != type_:
            raise ParameterError(f"{name} is used as {self.types[name]} and as {type_}", where="torch")
        return name

    def parameter(self, name: str) -> nn.Parameter:
        if name not in self.parameters:
            shape, dtype = self.types[name]
            if name not in self.arrays:
                raise ParameterError(f"{name} is missing: wanted shape {shape}", where="torch")
            given = self.arrays[name]
            own = isinstance(given, nn.Parameter)
            array = given if own else np.asarray(given)
            if tuple(array.shape) != shape:
                raise ParameterError(f"{name} must have shape {shape}, got {tuple(array.shape)}", where="torch")
            self.parameters[name] = given if own else nn.Parameter(torch.tensor(array, dtype=dtype))
        return self.parameters[name]

    def repeat(self, scope: Scope, node: Node, rounds: Rounds) -> Any:
        body, times = node.region, node.attrs["times"]
        assert body is not None and isinstance(times, int)
        x, *invariants = (scope.tensor(value) for value in node.operands)
        outside, cut, symbol = scope.values, parts(body), round_symbol(len(rounds))
        for index in range(times):
            scope.values = dict(zip(body.inputs, (x, *invariants), strict=True))  # names of the body are its own
            for part in cut:
                self.part(scope, part, {**rounds, symbol: index})
            x = scope.tensor(body.outputs[0])
        scope.values = outside
        return x

    def part(self, scope: Scope, part: Part, rounds: Rounds) -> None:
        """A layer as a module that is called; what is none, in its place."""
        prefix = expand(part.prefix, rounds)
        if not prefix or prefix in self.layers or not isinstance(scope, MainScope):
            self.nodes(scope, part.nodes, rounds)
            return
        self.layers.add(prefix)
        inside = InnerScope(scope, part.inputs, prefix)
        self.nodes(inside, part.nodes, rounds)
        layer = inside.finish(part.outputs, "Layer", several=len(part.outputs) != 1)
        made = scope.submodule(prefix.removesuffix("."), layer, *map(scope.tensor, part.inputs), *inside.captured)
        scope.values.update(scope.results(made, part.outputs, several=len(part.outputs) != 1))

    def scan(self, scope: Scope, node: Node, rounds: Rounds) -> Any:
        body = node.region
        assert body is not None
        inside = InnerScope(scope, body.inputs)
        self.nodes(inside, body.nodes, rounds)
        inner = scope.attribute(f"{node.output.name}_body", inside.finish(body.outputs, "Body", several=True))
        carried, walked, seen = (tuple(map(scope.tensor, part)) for part in cut_scan(node.operands, node.attrs))
        made = scope.call(scan, inner, node.attrs["axis"], carried, walked, (*seen, *inside.captured))
        return tuple(scope.results(made, node.outputs, several=True).values())
