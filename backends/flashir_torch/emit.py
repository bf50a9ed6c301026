"""Lowered graph -> torch.fx.GraphModule. Every layer of a `repeat` becomes a submodule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from flashir.errors import ParameterError, TargetError
from flashir.ir import Graph, Node
from flashir.ir.parameter_names import expand, full_name, round_symbol
from flashir.ops import OPS
from flashir.ops.primitive.scan import cut_scan
from flashir.transforms.lower import descend
from flashir.transforms.rewriter import rewrite
from flashir.transforms.token_analysis import part_of
from flashir_torch.emitters import EMITTERS, NUMBERS
from flashir_torch.loop import if_needed, scan
from flashir_torch.names import check_path
from flashir_torch.parts import Part, parts
from flashir_torch.scope import InnerScope, MainScope, Scope
from flashir_torch.types import TYPES

STRUCTURED = frozenset(("repeat", "scan", "param"))

Rounds = Mapping[str, int]
"""The round of each `repeat` around a node, by its symbol."""


def module(graph: Graph, params: Mapping[str, Any], *, exporting: bool = False) -> fx.GraphModule:
    """The module of a lowered graph, to run, train or compile. Its arguments are the inputs of the graph in order.

    Parameters are registered under their full names, as in `state_dict`. The layers of a `repeat` are submodules:
    `layers.0`, `layers.1`, ..

    Args:
        graph: a graph lowered by `flashir.backends.lowering.Lowering.of("torch:cpu")`.
        params: arrays by full name, which are copied; or PyTorch parameters, which the module shares.
        exporting: make it for `torch.export`: no size decides what is copied, at the cost of a few copies.

    Raises:
        TargetError: the graph contains ops without a PyTorch emitter.
        ParameterError: a parameter is missing or misshapen, or a module cannot have a parameter of this name.
    """
    unknown = sorted({node.op for node in graph.walk() if not OPS[node.op].needed_if} - EMITTERS.keys() - STRUCTURED)
    if unknown:
        raise TargetError(
            f"PyTorch has no emitter for {', '.join(unknown)} of @{graph.name}",
            where="torch",
            hint="lower the graph first: flashir_torch.lower(model); an op without a decomposition needs an emitter",
        )
    return _Emitter(params, exporting).run(graph)


class _Emitter:
    """Walks a graph and its regions, and collects the parameters and layers."""

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
            result = self.node(scope, node, rounds)
            results = result if isinstance(result, tuple) else (result,)
            for value, emitted in zip(node.outputs, results, strict=True):
                scope.stands_for(value, emitted)

    def node(self, scope: Scope, node: Node, rounds: Rounds) -> Any:
        if node.op == "param":
            return scope.parameter(self.declared(node, rounds))
        if node.op == "repeat":
            return self.repeat(scope, node, rounds)
        if node.op == "scan":
            return self.scan(scope, node, rounds)
        if OPS[node.op].needed_if:
            return self.if_needed(scope, node, rounds)
        numbers = node.op in NUMBERS and any(isinstance(scope.values[v], fx.Node) for v in node.operands[-2:])
        operands = [scope.values[v] if numbers else scope.tensor(v) for v in node.operands]
        return EMITTERS[node.op](scope, node, *operands)

    def declared(self, node: Node, rounds: Rounds) -> str:
        """Declare a parameter, and return its full name in this round."""
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
            source = self.arrays[name]
            is_shared = isinstance(source, nn.Parameter)
            array = source if is_shared else np.asarray(source)
            if tuple(array.shape) != shape:
                raise ParameterError(f"{name} must have shape {shape}, got {tuple(array.shape)}", where="torch")
            self.parameters[name] = source if is_shared else nn.Parameter(torch.tensor(array, dtype=dtype))
        return self.parameters[name]

    def repeat(self, scope: Scope, node: Node, rounds: Rounds) -> Any:
        body, times = node.region, node.attrs["times"]
        assert body is not None and isinstance(times, int)
        x, *invariants = (scope.tensor(value) for value in node.operands)
        outside, cut, symbol = scope.values, parts(body), round_symbol(len(rounds))
        for index in range(times):
            scope.values = dict(zip(body.inputs, (x, *invariants), strict=True))  # the body has its own values
            for part in cut:
                self.part(scope, part, {**rounds, symbol: index})
            x = scope.tensor(body.outputs[0])
        scope.values = outside
        return x

    def part(self, scope: Scope, part: Part, rounds: Rounds) -> None:
        """Emit a layer as a submodule, and other nodes in place."""
        prefix = expand(part.prefix, rounds)
        if not prefix or prefix in self.layers or not isinstance(scope, MainScope):
            self.nodes(scope, part.nodes, rounds)
            return
        self.layers.add(prefix)
        inside = InnerScope(scope, part.inputs, prefix)
        self.nodes(inside, part.nodes, rounds)
        layer = inside.finish(part.outputs, "Layer", several=len(part.outputs) != 1)
        call = scope.submodule(prefix.removesuffix("."), layer, *map(scope.tensor, part.inputs), *inside.captured)
        scope.values.update(scope.results(call, part.outputs, several=len(part.outputs) != 1))

    def scan(self, scope: Scope, node: Node, rounds: Rounds) -> Any:
        body = node.region
        assert body is not None
        inside = InnerScope(scope, body.inputs)
        self.nodes(inside, body.nodes, rounds)
        inner = scope.attribute(f"{node.output.name}_body", inside.finish(body.outputs, "Body", several=True))
        carried, sliced, invariants = (tuple(map(scope.tensor, part)) for part in cut_scan(node.operands, node.attrs))
        call = scope.call(scan, inner, node.attrs["axis"], carried, sliced, (*invariants, *inside.captured))
        return tuple(scope.results(call, node.outputs, several=True).values())

    def if_needed(self, scope: Scope, node: Node, rounds: Rounds) -> Any:
        """A branch around the parts of an op."""
        record, part = OPS[node.op], part_of(node)
        inside = InnerScope(scope, part.inputs)
        self.nodes(inside, rewrite(part, descend(lambda inner: inner.op in EMITTERS, "torch")).nodes, rounds)
        inner = scope.attribute(f"{node.output.name}_body", inside.finish(part.outputs, "Body", several=False))
        mask = scope.tensor(node.operands[record.operands.index(record.needed_if)])
        return scope.call(if_needed, inner, mask, *map(scope.tensor, node.operands), *inside.captured)
