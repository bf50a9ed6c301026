"""A lowered graph as a pure function of parameters and inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from flashir.backends.lowering import Lowering
from flashir.errors import InputError, TargetError
from flashir.ir import Graph, Node, Value
from flashir.ir.parameter_names import round_symbol
from flashir.ops import OPS
from flashir.ops.primitive.scan import cut_scan
from flashir.planning.plan import plan
from flashir.transforms import bind_sizes
from flashir.transforms.token_analysis import part_of
from flashir_jax.layout import Stack, depends_on, layout, stacked, unstacked
from flashir_jax.pallas.table import TABLE, on_tpu, parts
from flashir_jax.placement import Placement
from flashir_jax.rules import RULES, Sizes
from flashir_jax.types import element_type

HERE = Placement()
STRUCTURED = frozenset(("repeat", "scan", "param", "linear_attention"))


def lower(model: Graph, target: str = "jax:cpu", **choices: Any) -> Graph:
    """Plan the open choices of a model, and lower it for a target.

    Args:
        model: any graph.
        target: `jax:` and a device, available or not.
        choices: `batch`, `seq_len`, `chunk`, `cumsum`, `dtype`, `policy` and `params` as for `flashir.plan`.

    Raises:
        SettingError, TargetError, ParameterError: as for `flashir.plan`.
    """
    return Lowering.of(target).run(plan(model, target, **choices).graph)


def function(graph: Graph, *, remat: bool = False, placement: Placement = HERE) -> Function:
    """The function of a lowered graph.

    Args:
        graph: the result of `lower`.
        remat: recompute each layer in the backward pass instead of saving its activations: less memory, a third more
            arithmetic.
        placement: the placement of parameters and inputs on devices.

    Raises:
        TargetError: the graph contains ops without a JAX rule.
    """
    known = RULES.keys() | TABLE.keys() | STRUCTURED
    unknown = sorted({node.op for node in graph.walk() if not OPS[node.op].needed_if} - known)
    if unknown:
        raise TargetError(
            f"JAX has no rule for {', '.join(unknown)} of @{graph.name}",
            where="jax",
            hint="lower the graph first: flashir_jax.lower(model, target); an op without a decomposition needs a rule",
        )
    return Function(graph, remat, placement)


@dataclass(frozen=True)
class Function:
    """A pure function of (parameters, *inputs), for jit, grad, vmap or export.

    Parameters are a mapping of arrays by full name, or by the names of `stack`; both can be differentiated. With full
    names, each call stacks the layers, and under jit every array is an argument of the program. With stacked
    parameters, the size of the program and its arguments do not depend on the number of layers.
    """

    graph: Graph
    remat: bool = False
    placement: Placement = HERE

    @cached_property
    def parameters(self) -> dict[str, Stack]:
        """The stacked parameters of the function by name."""
        return layout(self.graph)

    def stack(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """`layers.0.norm.scale`, .. -> `layers.{i}.norm.scale [times, d]`. Parameters outside layers keep their names.

        Raises ParameterError if a parameter is missing or misshapen.
        """
        return stacked(self.parameters, params)

    def unstack(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `stack`: arrays by full name."""
        return unstacked(self.parameters, params)

    def __call__(self, params: Mapping[str, Any], *inputs: Any) -> Any:
        """The result of the graph, or a tuple if it has several.

        Raises:
            ParameterError: as for `stack`.
            InputError: the number or shapes of the inputs do not fit.
        """
        results = self.results(params, *inputs)
        return results[0] if len(results) == 1 else results

    def results(self, params: Mapping[str, Any], *inputs: Any) -> tuple[Any, ...]:
        """Every result of the graph. Raises the errors of a call."""
        values = self.graph.inputs
        if len(inputs) != len(values):
            signature = ", ".join(f"{value.name}: {value.type}" for value in values)
            raise InputError(f"@{self.graph.name} takes ({signature}), got {len(inputs)} inputs", where="jax")
        arrays = [jnp.asarray(x, element_type(v.type.dtype)) for x, v in zip(inputs, values, strict=True)]
        sizes: Sizes = bind_sizes(self.graph, [x.shape for x in arrays])
        return _Scope(sizes, self.stack(params), self.remat, self.placement).run(self.graph, arrays)


@dataclass(frozen=True)
class _Scope:
    """The context of a graph or body: sizes, the parameters of this layer, and the depth of nested loops."""

    sizes: Sizes
    params: Mapping[str, Any]
    remat: bool
    placement: Placement
    depth: int = 0

    def run(self, graph: Graph, inputs: Sequence[Any]) -> tuple[Any, ...]:
        values: dict[Value, Any] = dict(zip(graph.inputs, inputs, strict=True))
        for node in graph.nodes:
            result = self.node(node, [None if value is None else values[value] for value in node.inputs])
            results = result if isinstance(result, tuple) else (result,)
            values.update(zip(node.outputs, results, strict=True))
        return tuple(values[value] for value in graph.outputs)

    def node(self, node: Node, operands: Sequence[Any]) -> Any:
        if node.op == "param":
            own = jnp.asarray(self.params[str(node.attrs["name"])])
            return self.placement.used(own.astype(element_type(node.output.type.dtype)))
        if node.op == "repeat":
            return self.repeat(node, *operands)
        if node.op == "scan":
            return self.scan(node, operands)
        if node.op == "linear_attention":
            return self.placement.linear_attention(node, self.run, *operands)
        if OPS[node.op].needed_if:
            return self.if_needed(node, operands)
        if node.op in TABLE:
            return on_tpu(node, lambda *inputs: self.run(parts(node), inputs)[0], *operands)
        return RULES[node.op](self.sizes, node, *operands)

    def repeat(self, node: Node, x: Any, *invariants: Any) -> Any:
        """A scan over the stacked parameters. The body is traced and compiled once for any number of layers."""
        body, times, symbol = node.region, node.attrs["times"], round_symbol(self.depth)
        assert body is not None and isinstance(times, int)
        if not times:
            return x
        names = {str(inner.attrs["name"]) for inner in body.walk() if inner.op == "param"}
        stacked_params = {name: self.params[name] for name in sorted(names) if depends_on(name, symbol)}

        def layer(h: Any, own: Mapping[str, Any]) -> tuple[Any, None]:
            inside = replace(self, params={**self.params, **own}, depth=self.depth + 1)
            return inside.run(body, (h, *invariants))[0], None

        wrapped = jax.checkpoint(layer) if self.remat else self.placement.layer(layer)
        return lax.scan(wrapped, x, stacked_params, length=times)[0]

    def scan(self, node: Node, operands: Sequence[Any]) -> tuple[Any, ...]:
        body, axis = node.region, node.attrs["axis"]
        assert body is not None and isinstance(axis, int)
        first, sliced, invariants = cut_scan(operands, node.attrs)

        def step(state: tuple[Any, ...], items: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            results = self.run(body, (*state, *items, *invariants))
            return results[: len(first)], results[len(first) :]

        last, ys = lax.scan(step, tuple(first), tuple(jnp.moveaxis(x, axis, 0) for x in sliced))
        return (*last, *(jnp.moveaxis(y, 0, axis) for y in ys))

    def if_needed(self, node: Node, operands: Sequence[Any]) -> Any:
        """The parts of an op if its mask has a true element, otherwise its first operand."""
        record, part = OPS[node.op], part_of(node)
        present = [operand for operand in operands if operand is not None]
        mask = operands[record.operands.index(record.needed_if)]
        return lax.cond(jnp.any(mask), lambda *xs: self.run(part, xs)[0], lambda *xs: xs[0], *present)
