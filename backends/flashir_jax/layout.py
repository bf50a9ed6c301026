"""The layout of parameters: those of a `repeat` are stacked into one array for all layers, for a scan.

A parameter outside of loops keeps its name. Inside, all layers share one name with a symbolic round:
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
"""The loops over which a parameter is stacked, outermost first: their symbols and iteration counts."""


@dataclass(frozen=True)
class Stack:
    """One parameter of the graph: a single array, or one per round of the enclosing loops.

    Args:
        name: the name in the graph, such as `embed.weight` or `layers.{i}.norm.scale`.
        shape: the shape of one round.
        dtype: the dtype that the graph computes with.
        rounds: the loops over which it is stacked; empty for a single array.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    rounds: Rounds = ()

    @property
    def stacked_shape(self) -> tuple[int, ...]:
        """[rounds of the outer loop, .., rounds of the inner loop, *shape]."""
        return (*(times for _, times in self.rounds), *self.shape)

    def names(self) -> Iterator[str]:
        """The full names of the arrays of all rounds, in stacking order."""
        symbols = [symbol for symbol, _ in self.rounds]
        for numbers in product(*(range(times) for _, times in self.rounds)):
            yield expand(self.name, dict(zip(symbols, numbers, strict=True)))

    def stack(self, params: Mapping[str, Any]) -> Any:
        """Stack the arrays of all rounds. NumPy arrays stay NumPy; an array that is already stacked is used as it is.

        Raises ParameterError if a shape does not fit.
        """
        if self.rounds and self.name in params:
            return self._checked(self.name, params[self.name], self.stacked_shape)
        parts = [self._checked(name, params[name], self.shape) for name in self.names()]
        if not self.rounds:
            return parts[0]
        if all(isinstance(part, np.ndarray) for part in parts):
            return np.stack(parts).reshape(self.stacked_shape)
        # concatenate and reshape are two equations when traced, for any number of rounds
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
    """The parameters of a lowered graph by name.

    Raises TargetError if one name has different shapes.
    """
    stacks: dict[str, Stack] = {}
    for stack in _stacks(graph, ()):
        known = stacks.setdefault(stack.name, stack)
        if (known.shape, known.rounds) != (stack.shape, stack.rounds):
            raise TargetError(
                f"the parameter {stack.name} is used as {known.stacked_shape} and as {stack.stacked_shape}", where="jax"
            )
    return stacks


def stacked(stacks: Mapping[str, Stack], params: Mapping[str, Any]) -> dict[str, Any]:
    """Stack parameters by full name. Arrays that are already stacked stay as they are.

    Parameters that the lowered graph does not use are left out.

    Raises:
        ParameterError: lists every parameter that is missing, or names the first that is misshapen.
    """
    names_of = {name: [name] if name in params else list(stack.names()) for name, stack in stacks.items()}
    known = {full for names in names_of.values() for full in names}
    others = [name for name in params if name not in known]
    missing = [f"{full} is missing{suggest(full, others) if others else ''}" for full in known if full not in params]
    if missing:
        raise ParameterError(sorted(missing), where="jax")
    return {name: stack.stack(params) for name, stack in stacks.items()}


def unstacked(stacks: Mapping[str, Stack], params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `stacked`: parameters by full name."""
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
    """Whether the name of a parameter contains the round of this symbol."""
    return expand(name, {symbol: 0}) != name
