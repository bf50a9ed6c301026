"""The tensors of a model, noted while it is built: under which name, in which shape, and laid out how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flashir.importing.importer import Array, Arrays, Shapes
from flashir.ir import Builder, Value
from flashir_import.parts import linear

Shape = tuple[int, ...]


def taps(weight: Array) -> Array:
    """[o, c, k], or [o, c, k, 1] of a convolution in two dimensions, -> [k, c, o]"""
    return np.ascontiguousarray(weight.reshape(weight.shape[:3]).transpose(2, 1, 0))


def transposed_taps(weight: Array) -> Array:
    """[c, o, k] of a transposed convolution -> [k, c, o]"""
    return np.ascontiguousarray(weight.transpose(2, 0, 1))


def vector(weight: Array) -> Array:
    """As it is."""
    return weight


def number(weight: Array) -> Array:
    """[1] -> []"""
    return weight.reshape(())


@dataclass
class Parameters:
    """Makes parameters of the IR, and notes what they are made of.

    Args:
        layers: how often a name with `{i}` in it stands for a tensor.
    """

    layers: int
    noted: dict[str, tuple[Shape, Callable[[Array], Array]]] = field(default_factory=dict)

    def take(self, b: Builder, name: str, shape: Shape, laid: Callable[[Array], Array] = vector) -> Value:
        """The parameter that is made of a tensor of that name and shape."""
        self.noted[name] = shape, laid
        made: Value = b.param(name=name, shape=laid(np.empty(shape)).shape)
        return made

    def dense(self, b: Builder, x: Value, name: str, out: int, *, bias: bool = True, taps: int = 0) -> Value:
        """x W + c, of a Linear or of a convolution over one token"""
        width = x.type.shape[-1]
        assert isinstance(width, int)
        weight = self.take(b, f"{name}.weight", (out, width, 1) if taps else (out, width), linear)
        made: Value = b.dense(x, weight, self.take(b, f"{name}.bias", (out,))) if bias else b.matmul(x, weight)
        return made

    def shapes(self) -> Shapes:
        """Every tensor and its shape."""
        return {name: shape for name, shape, _ in self._each()}

    def arrays(self, given: Arrays) -> dict[str, Array]:
        """The parameters, made of tensors."""
        return {name: laid(np.asarray(given[name], np.float32)) for name, _, laid in self._each()}

    def _each(self) -> Any:
        for name, (shape, laid) in self.noted.items():
            for i in range(self.layers if "{i}" in name else 1):
                yield name.replace("{i}", str(i)), shape, laid
