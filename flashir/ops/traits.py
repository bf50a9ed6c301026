"""Facts about an op that analyses and passes ask for. They stand on its record, so no analysis names an op.

`Axes` says what an op does to the axes of its operands, a gradient rule what its backward pass reads, a fold rule what
it simplifies to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Attr, Node, Value


class Axes(Enum):
    """What an op does to the axes of its operands."""

    ELEMENTWISE = auto()
    """Each element of the result depends on the elements in its place; shapes broadcast as in numpy."""
    BROADCAST = auto()
    """As elementwise, and the result takes the shape `attrs["shape"]`."""
    ALONG_ONE = auto()
    """The op works along `attrs["axis"]`; all other axes keep their places."""
    REDUCTION = auto()
    """The axes in `attrs["axes"]` are removed, or kept with size 1 where `attrs["keepdims"]`."""
    ALIGNED = auto()
    """As elementwise on all axes but the last, along which elements may mix."""
    LAST = auto()
    """The op works along the last axis of its first operand; its other operands have no axis in common with it."""
    TRANSPOSE = auto()
    """Axis i of the result is axis `attrs["perm"][i]` of the operand."""
    RESHAPE = auto()
    """The same elements, in row-major order, in another shape."""
    GATHER = auto()
    """Rows of the first operand, numbered by the second."""
    MATMUL = auto()
    """A batch of matrix products; `attrs["transpose_x"]` and `attrs["transpose_y"]` say how the matrices lie."""
    LOOP = auto()
    """A loop along `attrs["axis"]`, see `flashir.ops.prefix.cut_scan`."""
    SOURCE = auto()
    """The op has no operands."""
    MIXED = auto()
    """None of the above: any element of a result may depend on any element of an operand."""


GradientRule = Callable[["Node", Set["Value"]], tuple["Value", ...]]
"""node, the values that a gradient reaches -> the values that the gradient of the node reads."""


def no_gradient(node: Node, reached: Set[Value]) -> tuple[Value, ...]:
    """The result is constant almost everywhere: no gradient passes."""
    return ()


def reads_nothing(node: Node, reached: Set[Value]) -> tuple[Value, ...]:
    """The op is linear in each operand alone, so its gradient needs no value of the forward pass."""
    return ()


def reads_result(node: Node, reached: Set[Value]) -> tuple[Value, ...]:
    """The derivative is a function of the result, as of `exp`."""
    return node.outputs


def reads_operands(node: Node, reached: Set[Value]) -> tuple[Value, ...]:
    """The gradient may read every operand."""
    return node.operands


def reads_operand(index: int) -> GradientRule:
    """The gradient reads one operand alone, as `select` its condition."""

    def rule(node: Node, reached: Set[Value]) -> tuple[Value, ...]:
        return (node.operands[index],)

    return rule


def reads_other_side(node: Node, reached: Set[Value]) -> tuple[Value, ...]:
    """The op is bilinear: the gradient of each side reads the other."""
    one, other = node.operands
    return tuple(read for read, side in ((other, one), (one, other)) if side in reached)


FoldRule = Callable[["Builder", "Node"], "Value | None"]
"""The builder, and a node that it is about to insert -> a value that equals its result; None where there is none."""


def same_type(node: Node, x: Value | None) -> Value | None:
    """The value, where it has the type of the node's result."""
    return x if x is not None and x.type == node.output.type else None


def fold_identity(b: Builder, node: Node) -> Value | None:
    """`f(x)` of the type that x has -> `x`, as a cast to its own element type."""
    return same_type(node, node.inputs[0])


def fold_single(b: Builder, node: Node) -> Value | None:
    """`f(x)` with one operand and one result -> `x`, as a concat of one part."""
    return node.inputs[0] if len(node.inputs) == len(node.outputs) == 1 else None


def constant_of(b: Builder, value: Value | None) -> float | int | bool | None:
    """The number that a value is, where it is a constant."""
    node = b.producer(value)
    if node is None or node.op != "constant":
        return None
    number = node.attrs["value"]
    assert isinstance(number, (int, float))
    return number


RowsRule = Callable[[Sequence[Any], Mapping[str, Any]], tuple[int, Any]]
"""Operand types and attributes -> the operand that holds numbers of rows, and how many rows the table has."""

PaddingRule = Callable[[Mapping[str, "Attr"]], bool]
"""Attributes -> whether rows after the last token leave the results of the rows before them unchanged."""


def each_row_alone(attrs: Mapping[str, Any]) -> bool:
    """The op works on each row alone."""
    return True


def where_causal(attrs: Mapping[str, Any]) -> bool:
    """No row sees those after it where the op is causal."""
    return attrs["causal"] is True
