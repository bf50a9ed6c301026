"""Records the tensors of a model while it is built: name, shape and layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flashir.importing.importer import Arrays, Shapes
from flashir.ir import Builder, Value
from flashir.reference.arrays import Array
from flashir_import.parts import linear

Shape = tuple[int, ...]


def taps(weight: Array) -> Array:
    """[o, c, k], or [o, c, k, 1] of a Conv2d, -> [k, c, o]"""
    return np.ascontiguousarray(weight.reshape(weight.shape[:3]).transpose(2, 1, 0))


def transposed_taps(weight: Array) -> Array:
    """[c, o, k] of a transposed convolution -> [k, c, o]"""
    return np.ascontiguousarray(weight.transpose(2, 0, 1))


def vector(weight: Array) -> Array:
    """[n] -> [n]"""
    return weight


def number(weight: Array) -> Array:
    """[1] -> []"""
    return weight.reshape(())


@dataclass
class Parameters:
    """Adds parameters to a graph, and records the tensors for them.

    Args:
        layers: the number of layers. A name with `{i}` stands for one tensor of each layer.
    """

    layers: int
    recorded: dict[str, tuple[Shape, Callable[[Array], Array]]] = field(default_factory=dict)

    def take(self, b: Builder, name: str, shape: Shape, layout: Callable[[Array], Array] = vector) -> Value:
        """A parameter for the tensor of this name and shape."""
        self.recorded[name] = shape, layout
        parameter: Value = b.param(name=name, shape=layout(np.empty(shape)).shape)
        return parameter

    def dense(self, b: Builder, x: Value, name: str, out: int, *, bias: bool = True, pointwise: bool = False) -> Value:
        """x W + c of a Linear or a pointwise convolution"""
        width = x.type.shape[-1]
        assert isinstance(width, int)
        weight = self.take(b, f"{name}.weight", (out, width, 1) if pointwise else (out, width), linear)
        result: Value = b.dense(x, weight, self.take(b, f"{name}.bias", (out,))) if bias else b.matmul(x, weight)
        return result

    def shapes(self) -> Shapes:
        """The shape of each tensor."""
        return {name: shape for name, shape, _ in self._entries()}

    def arrays(self, tensors: Arrays) -> dict[str, Array]:
        """The parameters, from the tensors."""
        return {name: layout(np.asarray(tensors[name], np.float32)) for name, _, layout in self._entries()}

    def _entries(self) -> Any:
        for name, (shape, layout) in self.recorded.items():
            for i in range(self.layers if "{i}" in name else 1):
                yield name.replace("{i}", str(i)), shape, layout
