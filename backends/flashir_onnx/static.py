"""Static values: values that depend only on parameters are computed at compile time and become weights."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.ir import Graph, Node, Value
from flashir.ir.parameter_names import expand, full_name
from flashir.ops import OPS

Rounds = tuple[tuple[str, int], ...]
"""The round of each `repeat` around a value, such as `(("i", 3),)`."""


class StaticValues:
    """The static values of a graph or body, and their arrays.

    A value is static if it is a parameter, or the result of an op on static values that does not increase their size.
    """

    def __init__(self, graph: Graph) -> None:
        self._producers: dict[Value, Node] = {}
        for node in graph.nodes:
            if node.op == "param" or self._shrinks(node):
                self._producers.update(dict.fromkeys(node.outputs, node))

    def __contains__(self, value: Value) -> bool:
        return value in self._producers

    def name(self, value: Value, rounds: Mapping[str, int]) -> str:
        """The name of the weight: the parameter and the ops on it, such as `layers.0.proj_in.weight/split.1`."""
        node = self._producers[value]
        if node.op == "param":
            return _parameter_name(node, rounds)
        number = f".{node.outputs.index(value)}" if len(node.outputs) > 1 else ""
        return f"{self.name(node.operands[0], rounds)}/{node.op}{number}"

    def array(
        self, value: Value, rounds: Mapping[str, int], params: Mapping[str, npt.NDArray[Any]]
    ) -> npt.NDArray[Any]:
        """The value in a given round; a view of the parameters if possible."""
        node = self._producers[value]
        if node.op == "param":
            return np.asarray(params[_parameter_name(node, rounds)])
        operands = [self.array(operand, rounds, params) for operand in node.operands]
        results = OPS[node.op].ref(*operands, **node.attrs)
        result = results[node.outputs.index(value)] if isinstance(results, tuple) else results
        return np.asarray(result)

    def _shrinks(self, node: Node) -> bool:
        if not node.operands or node.region is not None or any(v not in self._producers for v in node.operands):
            return False
        sizes = [size for value in (*node.outputs, *node.operands) for size in value.type.shape]
        if not all(isinstance(size, int) for size in sizes):
            return False
        return _count(node.outputs) <= _count(node.operands)


def _count(values: tuple[Value, ...]) -> int:
    return sum(prod(value.type.sizes) for value in values)


def _parameter_name(node: Node, rounds: Mapping[str, int]) -> str:
    return expand(full_name(node, str(node.attrs["name"])), rounds)
