"""The parts that layers share, found by their values: a norm, a linear map, the operands of a product.

A part is accepted if a formula of the IR, with constants of the file, gives the values that the file computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import networkx as nx
import numpy as np
from onnx import NodeProto, helper

from flashir.backends.protocols import Array
from flashir.errors import ArtefactError
from flashir.ir.op import opdef
from flashir.ops.functions.norm import EPS, ref_layer, ref_scale
from flashir_onnx.raising.dataflow import Dataflow, equation
from flashir_onnx.raising.observed import Observed

CLOSE = 1e-4
"""The relative error that is attributed to float32."""

LARGEST_EPS = 1e-3


@dataclass(frozen=True)
class Reading:
    """What parts are read from: the graph, its values for one input, and the number of tokens of this input."""

    flow: Dataflow
    seen: Observed
    length: int

    def again(self) -> Reading:
        """The same with no values in memory yet."""
        return Reading(self.flow, self.seen.again(), self.length)

    def constants(self, start: str, end: str) -> list[Array]:
        """The float constants that enter between two values."""
        between = self.flow.between(start, end)
        names = dict.fromkeys(name for value in between for name in self.flow.constants(value))
        self.seen.load(names)
        return [array for name in names if (array := self.seen[name]).dtype.kind == "f"]


@dataclass(frozen=True)
class Linear:
    """x @ weight + bias. `name` is that of its result."""

    weight: Array
    bias: Array
    name: str


@dataclass(frozen=True)
class Norm:
    """The attributes and the parameters of a norm by local name, and whether a token shift follows it."""

    attrs: dict[str, Any]
    params: dict[str, Array]
    shifted: bool = False


def close(got: Array, wanted: Array) -> bool:
    """Whether two arrays are the same function in float32."""
    if got.shape != wanted.shape:
        return False
    return bool(np.max(np.abs(got - wanted), initial=0.0) <= CLOSE * np.max(np.abs(wanted), initial=1e-30))


def unrecognised(part: str, why: str = "") -> ArtefactError:
    """The error for a part of a graph, and what it lacks."""
    return ArtefactError(f"{part} is not recognised{': ' * bool(why)}{why}")


def find_norm(reading: Reading, start: str, end: str, *, shift: bool = False) -> Norm:
    """The norm between two values. Raises ArtefactError if there is another function.

    Args:
        reading: what to read from.
        start, end: the values.
        shift: allow a token shift after the norm.
    """
    reading.seen.load([start, end])
    x, wanted = reading.seen[start], reading.seen[end]
    for norm, normed in _norms(reading, start, end, x):
        for shifted in (False, True) if shift else (False,):
            if close(opdef("token_shift").ref(normed) if shifted else normed, wanted):
                return Norm(norm.attrs, norm.params, shifted)
    raise unrecognised(f"the norm between {start!r} and {end!r}")


def _norms(reading: Reading, start: str, end: str, x: Array) -> Iterator[tuple[Norm, Array]]:
    """The norms that the constants allow, with their results."""
    yield Norm({"norm": "none"}, {}), x
    if start == end:
        return
    width = x.shape[-1]
    nodes = [reading.flow.nodes[name] for name in reading.flow.between(start, end)]
    constants = reading.constants(start, end)
    vectors = [array.reshape(-1) for array in constants if array.shape[-1:] == (width,) and array.size == width]
    scalars = [float(array.reshape(())) for array in constants if array.size == 1]
    stated = [float(np.float32(value)) for node in nodes for value in _attributes(node, "epsilon")]
    small = [float(str(np.float32(eps))) for eps in (*stated, *scalars) if 0 < eps <= LARGEST_EPS] or [0.0]
    for eps, weight, bias in product(small, [*vectors, np.ones(width)], [*vectors, np.zeros(width)]):
        attrs = {"norm": "layer_norm", "norm_eps": eps}
        yield Norm(attrs, {"scale": weight, "bias": bias}), ref_layer(x, weight, bias, eps)
    clamp = any(node.op_type in ("Clip", "Max") for node in nodes)
    for eps, scale in product(small, [*scalars, 1.0]):
        attrs = {"norm": "scale_norm", "norm_eps": eps, "norm_clamp": clamp}
        yield Norm(attrs, {"scale": np.array(scale)}), ref_scale(x, scale, eps, clamp)


def _attributes(node: NodeProto, name: str) -> list[Any]:
    return [helper.get_attribute_value(attribute) for attribute in node.attribute if attribute.name == name]


def norm_attrs(norm: Norm) -> dict[str, Any]:
    """The attributes of a norm as an op of its own."""
    eps, clamp = norm.attrs.get("norm_eps", EPS), norm.attrs.get("norm_clamp", False)
    return {"eps": eps} | ({"clamp": True} if clamp else {})


def find_linear(reading: Reading, name: str) -> Linear:
    """The linear map whose multiplication is this value. Raises ArtefactError for any other form."""
    node, flow = reading.flow.nodes[name], reading.flow
    where = f"the multiplication {name!r}"
    constant = flow.constants(name)[0]
    weight = reading.seen[constant]
    flags = {key: _attributes(node, key) for key in ("alpha", "beta", "transA", "transB")}
    if weight.ndim != 2 or list(node.input).index(constant) != 1 or flags["transA"] not in ([], [0]):
        raise unrecognised(where)
    if node.op_type == "Einsum":
        (rows, columns), result = equation(node)
        if len(columns) != 2 or rows[-1] not in columns or result != rows[:-1] + columns.replace(rows[-1], ""):
            raise unrecognised(where)
        weight = weight.T if columns[1] == rows[-1] else weight
    bias = np.zeros(weight.shape[1])
    if node.op_type == "Gemm":
        if flags["alpha"] not in ([], [1.0]) or flags["beta"] not in ([], [1.0]):
            raise unrecognised(where)
        weight = weight.T if flags["transB"] == [1] else weight
        bias = reading.seen[node.input[2]] if len(node.input) > 2 else np.zeros(weight.shape[1])
    after = list(flow.values.successors(name))
    added = flow.constants(after[0]) if len(after) == 1 and flow.nodes[after[0]].op_type == "Add" else []
    if added and reading.seen[added[0]].size == weight.shape[1]:
        return Linear(weight, bias + reading.seen[added[0]].reshape(-1), after[0])
    return Linear(weight, bias.reshape(-1), name)


@dataclass(frozen=True)
class Operand:
    """An operand of a product, or its result: the name of the value, and the labels of its axes."""

    name: str
    labels: str


@dataclass(frozen=True)
class Product:
    """A product of two varying values."""

    operands: tuple[Operand, Operand]
    result: Operand

    @property
    def summed(self) -> str:
        """The labels that it sums over."""
        first, second = self.operands
        return "".join(label for label in first.labels if label in second.labels and label not in self.result.labels)

    def other(self, operand: Operand) -> Operand:
        """The other operand."""
        return next(side for side in self.operands if side is not operand)

    def own(self, operand: Operand) -> str:
        """The last label that an operand shares with the result alone, so after an axis of chunks; "" if none."""
        other = self.other(operand).labels
        return next(
            (label for label in reversed(operand.labels) if label in self.result.labels and label not in other), ""
        )

    def computed_from(self, reading: Reading, name: str) -> Operand:
        """The operand that is computed from a value."""
        first, second = self.operands
        return first if nx.has_path(reading.flow.values, name, first.name) else second


def find_product(reading: Reading, name: str) -> Product:
    """A product of two varying values, with labels for its axes."""
    node = reading.flow.nodes[name]
    names = (node.input[0], node.input[1], name)
    reading.seen.load(names)
    ranks = [reading.seen[value].ndim for value in names]
    if node.op_type == "Einsum":
        sides, result = equation(node)
        labels = [_spelled(text, rank) for text, rank in zip((*sides, result), ranks)]
    else:
        labels = [_spelled(f"...{text}", rank) for text, rank in zip(("ij", "jk", "ik"), ranks)]
    first, second, whole = (Operand(value, text) for value, text in zip(names, labels))
    return Product((first, second), whole)


def _spelled(labels: str, rank: int) -> str:
    """Labels with an ellipsis replaced by capital letters, the same ones in every operand."""
    missing = rank - len(labels.replace("...", ""))
    return labels.replace("...", "UVWXYZ"[6 - missing :] if 0 < missing <= 6 else "")


def arranged(reading: Reading, operand: Operand, row: str, column: str) -> Array:
    """An operand with its axes in the order (.., row, column). Raises ArtefactError if it lacks one."""
    labels, array = operand.labels, reading.seen[operand.name]
    if len(row) != 1 or len(column) != 1 or not {row, column} <= set(labels) or len(labels) != array.ndim:
        raise unrecognised(f"the operand {operand.name!r} of a product")
    order = [axis for axis, label in enumerate(labels) if label not in (row, column)]
    return np.transpose(array, [*order, labels.index(row), labels.index(column)])


def columns_of(
    wide: Array, wanted: Array, width: int, offsets: Sequence[int], factor: Array | float = 1.0
) -> slice | None:
    """The columns of a matrix that, times a factor, equal another one, at one of these offsets; None if none do."""
    places = (slice(start, start + width) for start in dict.fromkeys(offsets) if start + width <= wide.shape[-1])
    return next((place for place in places if close(wide[..., place] * factor, wanted)), None)
