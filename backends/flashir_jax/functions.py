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
from flashir.ops.primitive.scan import cut_scan
from flashir.planning.plan import plan
from flashir.transforms import bind_sizes
from flashir_jax.layout import Stack, depends_on, layout, stacked, unstacked
from flashir_jax.pallas.table import TABLE, on_tpu, parts
from flashir_jax.placement import Placement
from flashir_jax.rules import RULES, Sizes
from flashir_jax.types import element_type

HERE = Placement()
STRUCTURED = frozenset(("repeat", "scan", "param", "linear_attention"))


def lower(model: Graph, target: str = "jax:cpu", **choices: Any) -> Graph:
    """A model lowered for a target, what it leaves open planned first.

    Args:
        model: any graph.
        target: `jax:` and a device; it need not be at hand.
        choices: `batch`, `seq_len`, `chunk`, `cumsum`, `dtype`, `policy` and `params` as for `flashir.plan`.

    Raises:
        SettingError, TargetError, ParameterError: as `flashir.plan`.
    """
    return Lowering.of(target).run(plan(model, target, **choices).graph)


def function(graph: Graph, *, remat: bool = False, placement: Placement = HERE) -> Function:
    """The function that a lowered graph describes.

    Args:
        graph: as `lower` makes it.
        remat: compute each layer again on the way back instead of keeping what it made: less memory, a third more
            arithmetic.
        placement: where parameters and inputs lie.

    Raises:
        TargetError: the graph holds ops that JAX has no rule for.
    """
    unknown = sorted({node.op for node in graph.walk()} - RULES.keys() - TABLE.keys() - STRUCTURED)
    if unknown:
        raise TargetError(
            f"JAX has no rule for {', '.join(unknown)} of @{graph.name}",
            where="jax",
            hint="lower the graph first: flashir_jax.lower(model, target)",
        )
    return Function(graph, remat, placement)


@dataclass(frozen=True)
class Function:
    """A pure function of (parameters, *inputs), to be traced by jit, grad, vmap or export.

    Parameters are a mapping of arrays by full name, or by the names of `stack`. Both may be differentiated. With full
    names each call stacks the layers, inside jit too, where every array is an argument of the program; with `stack`
    called once before, neither the program nor its arguments depend on the number of layers.
    """

    graph: Graph
    remat: bool = False
    placement: Placement = HERE

    @cached_property
    def parameters(self) -> dict[str, Stack]:
        """What the function takes, by the names of `stack`."""
        return layout(self.graph)

    def stack(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """`layers.0.norm.scale`, .. -> `layers.{i}.norm.scale [times, d]`; what is no layer's keeps its name.

        Raises ParameterError where a parameter is missing, misshapen, or none of the model's.
        """
        return stacked(self.parameters, params)

    def unstack(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `stack`: arrays by full name."""
        return unstacked(self.parameters, params)

    def __call__(self, params: Mapping[str, Any], *inputs: Any) -> Any:
        """The result of the graph, or a tuple of all where it has several.

        Raises:
            ParameterError: as `stack`.
            InputError: inputs whose number or shapes do not fit.
        """
        results = self.results(params, *inputs)
        return results[0] if len(results) == 1 else results

    def results(self, params: Mapping[str, Any], *inputs: Any) -> tuple[Any, ...]:
        """Every result of the graph. Raises as a call does."""
        wanted = self.graph.inputs
        if len(inputs) != len(wanted):
            shown = ", ".join(f"{value.name}: {value.type}" for value in wanted)
            raise InputError(f"@{self.graph.name} takes ({shown}), got {len(inputs)} inputs", where="jax")
        arrays = [jnp.asarray(x, element_type(v.type.dtype)) for x, v in zip(inputs, wanted, strict=True)]
        sizes: Sizes = bind_sizes(self.graph, [x.shape for x in arrays])
        return _Scope(sizes, self.stack(params), self.remat, self.placement).run(self.graph, arrays)


@dataclass(frozen=True)
class _Scope:
    """What a graph or body sees beside its inputs: sizes, the parameters of this round, how deep in loops it is."""

    sizes: Sizes
    params: Mapping[str, Any]
    remat: bool
    placement: Placement
    depth: int = 0

    def run(self, graph: Graph, inputs: Sequence[Any]) -> tuple[Any, ...]:
        values: dict[Value, Any] = dict(zip(graph.inputs, inputs, strict=True))
        for node in graph.nodes:
            made = self.node(node, [None if value is None else values[value] for value in node.inputs])
            results = made if isinstance(made, tuple) else (made,)
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
        if node.op in TABLE:
            return on_tpu(node, lambda *inputs: self.run(parts(node), inputs)[0], *operands)
        return RULES[node.op](self.sizes, node, *operands)

    def repeat(self, node: Node, x: Any, *invariants: Any) -> Any:
        """A loop over the stacked parameters: the body is traced and compiled once, whatever the number of rounds."""
        body, times, symbol = node.region, node.attrs["times"], round_symbol(self.depth)
        assert body is not None and isinstance(times, int)
        if not times:
            return x
        names = {str(each.attrs["name"]) for each in body.walk() if each.op == "param"}
        walked = {name: self.params[name] for name in sorted(names) if depends_on(name, symbol)}

        def layer(h: Any, own: Mapping[str, Any]) -> tuple[Any, None]:
            inside = replace(self, params={**self.params, **own}, depth=self.depth + 1)
            return inside.run(body, (h, *invariants))[0], None

        kept = jax.checkpoint(layer) if self.remat else self.placement.layer(layer)
        return lax.scan(kept, x, walked, length=times)[0]

    def scan(self, node: Node, operands: Sequence[Any]) -> tuple[Any, ...]:
        body, axis = node.region, node.attrs["axis"]
        assert body is not None and isinstance(axis, int)
        first, walked, invariants = cut_scan(operands, node.attrs)

        def step(state: tuple[Any, ...], items: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            results = self.run(body, (*state, *items, *invariants))
            return results[: len(first)], results[len(first) :]

        last, made = lax.scan(step, tuple(first), tuple(jnp.moveaxis(x, axis, 0) for x in walked))
        return (*last, *(jnp.moveaxis(y, 0, axis) for y in made))
