"""Traits of an op that analyses and passes use. They are fields of its record, so no analysis names an op.

`Axes` describes what an op does to the axes of its operands, a gradient rule which values its backward pass reads, a
fold rule what a node simplifies to (`flashir.ir.folding` has common ones).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from enum import Enum, auto
from math import inf
from typing import Any

from flashir.ir.dims import Size
from flashir.ir.graph import Attr, Node, Value


class Axes(Enum):
    """What an op does to the axes of its operands."""

    ELEMENTWISE = auto()
    """Each element of the result depends on the elements at its position; shapes broadcast as in NumPy."""
    BROADCAST = auto()
    """As elementwise, and the result has the shape `attrs["shape"]`."""
    ALONG_ONE = auto()
    """The op works along `attrs["axis"]`; all other axes stay in place."""
    REDUCTION = auto()
    """The axes in `attrs["axes"]` are removed, or have size 1 if `attrs["keepdims"]`."""
    ALIGNED = auto()
    """As elementwise on all axes but the last, along which elements may depend on each other."""
    LAST = auto()
    """The op works along the last axis of its first operand; its other operands share no axis with it."""
    TRANSPOSE = auto()
    """Axis i of the result is axis `attrs["perm"][i]` of the operand."""
    RESHAPE = auto()
    """The same elements, in row-major order, in another shape."""
    GATHER = auto()
    """Rows of the first operand, numbered by the second."""
    MATMUL = auto()
    """A batch of matrix products, transposed by `attrs["transpose_x"]` and `attrs["transpose_y"]`."""
    LOOP = auto()
    """A loop along `attrs["axis"]`, see `flashir.ops.primitive.scan.cut_scan`."""
    SOURCE = auto()
    """The op has no operands."""
    MIXED = auto()
    """None of the above: any element of a result may depend on any element of an operand."""


AXES_READ: Mapping[Axes, tuple[str, ...]] = {
    Axes.BROADCAST: ("shape",),
    Axes.ALONG_ONE: ("axis",),
    Axes.REDUCTION: ("axes", "keepdims"),
    Axes.TRANSPOSE: ("perm",),
    Axes.MATMUL: ("transpose_x", "transpose_y"),
    Axes.LOOP: ("axis",),
}
"""The attributes by which an op says more of its axes: analyses read them."""

GradientRule = Callable[[Node, Set[Value]], tuple[Value, ...]]
"""node, the values that a gradient reaches -> the values that the gradient of the node reads."""


def no_gradient(node: Node, reached: Set[Value]) -> tuple[Value, ...]:
    """The result is constant almost everywhere: no gradient passes."""
    return ()


def reads_nothing(node: Node, reached: Set[Value]) -> tuple[Value, ...]:
    """The op is linear in all operands, so its gradient needs no value of the forward pass."""
    return ()


def reads_result(node: Node, reached: Set[Value]) -> tuple[Value, ...]:
    """The derivative is a function of the result, as for `exp`."""
    return node.outputs


def reads_operands(node: Node, reached: Set[Value]) -> tuple[Value, ...]:
    """The gradient may read every operand."""
    return node.operands


def reads_operand(index: int) -> GradientRule:
    """The gradient reads only one operand, as that of `select` reads the condition."""

    def rule(node: Node, reached: Set[Value]) -> tuple[Value, ...]:
        return (node.operands[index],)

    return rule


def reads_other_side(node: Node, reached: Set[Value]) -> tuple[Value, ...]:
    """The op is bilinear: the gradient of each side reads the other."""
    one, other = node.operands
    return tuple(read for read, side in ((other, one), (one, other)) if side in reached)


FoldRule = Callable[[Any, Node], Value | None]
"""builder, the node to insert -> a value that equals its result, or None."""

RowsRule = Callable[[Sequence[Any], Mapping[str, Any]], tuple[int, Any]]
"""Operand types and attributes -> the index of the operand with row indices, and the number of rows of the table."""
GrowthRule = Callable[[Node, Sequence[float], Callable[[Size], float]], float]
"""How values grow with the sequence length: node, growth of each operand, power of a size -> growth of the results.

A growth of g bounds the values by the length to the power of g. Constants, parameters, tokens and normalised values
have growth 0, a sum over all tokens 1, its reciprocal -1. The power of a size is 1 if it counts tokens or chunks, and 0
otherwise. The growth of an op without a rule is the largest of its operands.
"""


def grows_bounded(node: Node, growth: Sequence[float], power: Callable[[Size], float]) -> float:
    """The results are bounded, as for `tanh`. So is `exp`, whose operand is a score minus the largest score."""
    return 0.0


def grows_as_product(node: Node, growth: Sequence[float], power: Callable[[Size], float]) -> float:
    """`x * y`."""
    return sum(growth)


def grows_as_quotient(node: Node, growth: Sequence[float], power: Callable[[Size], float]) -> float:
    """`x / y`."""
    return growth[0] - growth[1]


def grows_as_inverse(node: Node, growth: Sequence[float], power: Callable[[Size], float]) -> float:
    """`1 / x`."""
    return -growth[0]


def grows_as_root(node: Node, growth: Sequence[float], power: Callable[[Size], float]) -> float:
    """The square root."""
    return growth[0] / 2


def grows_by_axes(node: Node, growth: Sequence[float], power: Callable[[Size], float]) -> float:
    """A sum over `attrs["axes"]`."""
    shape, axes = node.operands[0].type.shape, node.attrs["axes"]
    assert isinstance(axes, tuple)
    return growth[0] + sum(power(shape[axis]) for axis in axes if isinstance(axis, int))


def grows_by_running(node: Node, growth: Sequence[float], power: Callable[[Size], float]) -> float:
    """A running sum runs over tokens or chunks."""
    return growth[0] + 1.0


def grows_by_contraction(node: Node, growth: Sequence[float], power: Callable[[Size], float]) -> float:
    """A matrix product sums over one axis."""
    shape = node.operands[0].type.shape
    return sum(growth) + power(shape[-2] if node.attrs["transpose_x"] else shape[-1])


def grows_as_constant(node: Node, growth: Sequence[float], power: Callable[[Size], float]) -> float:
    """A constant does not grow; 0 grows slower than anything."""
    return 0.0 if node.attrs["value"] else -inf


def grows_as_size(attr: str) -> GrowthRule:
    """A value as large as the size in an attribute."""

    def rule(node: Node, growth: Sequence[float], power: Callable[[Size], float]) -> float:
        size: Any = node.attrs[attr]
        return power(size)

    return rule


PaddingRule = Callable[[Mapping[str, Attr]], bool]
"""Attributes -> whether rows after the last token leave the results of earlier rows unchanged."""


def each_row_alone(attrs: Mapping[str, Any]) -> bool:
    """The op works on each row independently."""
    return True


def where_causal(attrs: Mapping[str, Any]) -> bool:
    """A causal op never reads later rows."""
    return attrs["causal"] is True
