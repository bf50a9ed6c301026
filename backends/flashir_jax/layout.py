"""How parameters lie in memory: those of a `repeat` as one array for all rounds, so that a loop can walk over it.

A parameter outside of loops keeps its name. Inside, all rounds share one name with the number of the round open:
`layers.0.norm.scale [d]`, `layers.1.norm.scale [d]`, .. -> `layers.{i}.norm.scale [times, d]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import jax.numpy as jnp
import numpy as np

from flashir.errors import ParameterError, TargetError, suggest
from flashir.ir import DType, Graph
from flashir.ir.parameter_names import expand, round_symbol

Rounds = tuple[tuple[str, int], ...]
"""The symbols of the loops that a parameter differs in, the outermost first, and how many rounds each has."""


@dataclass(frozen=True)
class Stack:
    """One parameter of the graph: a single array, or one for each round of the loops around it.

    Args:
        name: as the graph has it, such as `embed.weight` or `layers.{i}.norm.scale`.
        shape: of one round.
        dtype: what the graph computes with.
        rounds: the loops that number it; empty for a single array.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    rounds: Rounds = ()

    @property
    def stacked_shape(self) -> tuple[int, ...]:
        """[rounds of the outer loop, .., rounds of the inner, *shape]"""
        return (*(times for _, times in self.rounds), *self.shape)

    def names(self) -> Iterator[str]:
        """The full name of each round's own array, in the order in which they are stacked."""
        symbols = [symbol for symbol, _ in self.rounds]
        for numbers in product(*(range(times) for _, times in self.rounds)):
            yield expand(self.name, dict(zip(symbols, numbers, strict=True)))

    def stack(self, params: Mapping[str, Any]) -> Any:
        """All rounds as one array, from the parameters by full name; numpy stays numpy. One already stacked is taken.

        Raises ParameterError where a shape does not fit.
        """
        if self.rounds and self.name in params:
            return self._checked(self.name, params[self.name], self.stacked_shape)
        parts = [self._checked(name, params[name], self.shape) for name in self.names()]
        if not self.rounds:
            return parts[0]
        if all(isinstance(part, np.ndarray) for part in parts):
            return np.stack(parts).reshape(self.stacked_shape)
        # concatenated and then reshaped, so that tracing it takes two equations however many rounds there are
        joined = jnp.concatenate(parts) if self.shape else jnp.stack(parts)
        return joined.reshape(self.stacked_shape)

    def _checked(self, name: str, array: Any, shape: tuple[int, ...]) -> Any:
        if np.shape(array) != shape:
            raise ParameterError(f"{name} must have shape {shape}, got {np.shape(array)}", where="jax")
        return array

    def unstack(self, stacked: Any) -> dict[str, Any]:
        """The inverse of `stack`."""
        names = list(self.names())
        if not self.rounds:
            return {names[0]: stacked}
        rows = stacked.reshape((len(names), *self.shape))
        return {name: rows[index] for index, name in enumerate(names)}


def layout(graph: Graph) -> dict[str, Stack]:
    """The parameters of a lowered graph by the names that it gives them.

    Raises TargetError where one name stands for different shapes.
    """
    found: dict[str, Stack] = {}
    for stack in _stacks(graph, ()):
        known = found.setdefault(stack.name, stack)
        if (known.shape, known.rounds) != (stack.shape, stack.rounds):
            raise TargetError(
                f"the parameter {stack.name} is used as {known.stacked_shape} and as {stack.stacked_shape}", where="jax"
            )
    return found


def stacked(stacks: Mapping[str, Stack], params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by the names of the graph, from those by full name; what is stacked already stays as it is.

    A model may own parameters that nothing in its lowered graph needs; those are left out.

    Raises:
        ParameterError: every parameter that is missing, and the first that is misshapen.
    """
    wanted = {name: [name] if name in params else list(stack.names()) for name, stack in stacks.items()}
    known = {full for names in wanted.values() for full in names}
    others = [name for name in params if name not in known]
    missing = [f"{full} is missing{suggest(full, others) if others else ''}" for full in known if full not in params]
    if missing:
        raise ParameterError(sorted(missing), where="jax")
    return {name: stack.stack(params) for name, stack in stacks.items()}


def unstacked(stacks: Mapping[str, Stack], params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by full name, from those by the names of the graph."""
    return {full: array for name, stack in stacks.items() for full, array in stack.unstack(params[name]).items()}


def _stacks(graph: Graph, rounds: Rounds) -> Iterator[Stack]:
    for node in graph.nodes:
        if node.op == "param":
            name, shape = str(node.attrs["name"]), node.output.type.sizes
            own = tuple((symbol, times) for symbol, times in rounds if depends_on(name, symbol))
            yield Stack(name, shape, node.output.type.dtype, own)
        elif node.region is not None:
            times = node.attrs.get("times")
            inside = rounds
            if isinstance(times, int):
                inside = (*rounds, (round_symbol(len(rounds)), times))
            if times != 0:
                yield from _stacks(node.region, inside)


def depends_on(name: str, symbol: str) -> bool:
    """Whether a parameter's name has the number of that round in it."""
    return expand(name, {symbol: 0}) != name
