"""canonicalise: fold what is known, merge what is equal, drop what is unused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flashir.ir.builder import Builder
from flashir.ir.graph import Graph, Node, Value
from flashir.ops.opdef import OPS
from flashir.passes.base import Pass
from flashir.rewrite import RewritingBuilder, rewrite


@dataclass(frozen=True)
class Canonicalise(Pass):
    """Constants folded, identities removed, equal nodes merged, dead nodes dropped; in regions too."""

    name = "canonicalise"

    def apply(self, graph: Graph) -> Graph:
        """One walk: rules apply as nodes are inserted, so their results fold further."""
        return drop_dead(rewrite(graph, fold, merge_equal))


def fold(b: Builder, node: Node) -> Value | None:
    """A node that equals one of its operands, or a constant -> that."""
    folder = FOLDERS.get(node.op)
    found = folder(b, node) if folder else None
    return found if found is not None else _fold_constants(b, node)


def merge_equal(b: RewritingBuilder, node: Node) -> Sequence[Value] | None:
    """`%1 = f(%x); %2 = f(%x)` -> `%2` is `%1`."""
    return b.equal(node)


def drop_dead(graph: Graph) -> Graph:
    """The graph without nodes whose results nobody needs; bodies too."""
    needed = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.isdisjoint(node.outputs):
            continue
        kept.append(replace(node, region=drop_dead(node.region)) if node.region is not None else node)
        needed.update(node.operands)
    return replace(graph, nodes=tuple(reversed(kept)))


def constant_of(b: Builder, value: Value | None) -> float | int | bool | None:
    """The number that a value is, where it is a constant."""
    node = b.producer(value)
    if node is None or node.op != "constant":
        return None
    number = node.attrs["value"]
    assert isinstance(number, (int, float))
    return number


FOLDABLE = frozenset(
    [
        "neg",
        "exp",
        "sin",
        "cos",
        "erf",
        "tanh",
        "sqrt",
        "reciprocal",
        "relu",
        "sigmoid",
        "add",
        "sub",
        "mul",
        "div",
        "maximum",
        "minimum",
        "less",
        "less_equal",
        "logical_and",
        "cast",
    ]
)


def _fold_constants(b: Builder, node: Node) -> Value | None:
    """`mul(2, 3)` -> `6`, computed by the op's own reference."""
    if node.op not in FOLDABLE:
        return None
    numbers = [constant_of(b, value) for value in node.operands]
    if any(number is None for number in numbers):
        return None
    with np.errstate(all="ignore"):
        made = np.asarray(OPS[node.op].ref(*(np.asarray(n) for n in numbers), **node.attrs))
    return b.constant(made.item(), node.output.type.dtype) if np.isfinite(made) else None


def _if_same_type(node: Node, x: Value | None) -> Value | None:
    return x if x is not None and x.type == node.output.type else None


def _neutral(neutral: float, *, both: bool) -> Callable[[Builder, Node], Value | None]:
    """`add(x, 0)` -> `x`; where both, `add(0, x)` too."""

    def folder(b: Builder, node: Node) -> Value | None:
        x, y = node.inputs
        if constant_of(b, y) == neutral:
            return _if_same_type(node, x)
        return _if_same_type(node, y) if both and constant_of(b, x) == neutral else None

    return folder


def _identity(b: Builder, node: Node) -> Value | None:
    """`cast`, `broadcast` to the type it has -> itself."""
    return _if_same_type(node, node.inputs[0])


def _reshape(b: Builder, node: Node) -> Value | None:
    """`reshape(reshape(x))` -> `reshape(x)`, and to its own shape -> `x`"""
    x = node.inputs[0]
    before = b.producer(x)
    if before is not None and before.op == "reshape":
        return b.reshape(before.inputs[0], shape=node.attrs["shape"])
    return _identity(b, node)


def _transpose(b: Builder, node: Node) -> Value | None:
    """`transpose(x)` in the order it has -> `x`"""
    perm = node.attrs["perm"]
    assert isinstance(perm, tuple)
    return node.inputs[0] if perm == tuple(range(len(perm))) else None


def _slice(b: Builder, node: Node) -> Value | None:
    """The whole axis -> `x`; of its own padding -> what was padded."""
    x = node.inputs[0]
    before = b.producer(x)
    padding = before is not None and before.op == "pad" and before.attrs["axis"] == node.attrs["axis"]
    if padding and before is not None and before.attrs["before"] == 0 and node.attrs["start"] == 0:
        whole = _if_same_type(node, before.inputs[0])
        if whole is not None:
            return whole
    return _identity(b, node) if node.attrs["start"] == 0 else None


def _concat(b: Builder, node: Node) -> Value | None:
    """`concat(x)` -> `x`"""
    return node.inputs[0] if len(node.inputs) == 1 else None


def _split(b: Builder, node: Node) -> Value | None:
    """`split(x)` into one -> `x`"""
    return node.inputs[0] if len(node.outputs) == 1 else None


def _size(b: Builder, node: Node) -> Value | None:
    """A known size -> a constant"""
    value, dtype = node.attrs["value"], node.output.type.dtype
    return b.constant(float(value) if dtype.is_float else value, dtype) if isinstance(value, int) else None


FOLDERS: dict[str, Callable[[Builder, Node], Value | None]] = {
    "add": _neutral(0, both=True),
    "sub": _neutral(0, both=False),
    "mul": _neutral(1, both=True),
    "div": _neutral(1, both=False),
    "cast": _identity,
    "broadcast": _identity,
    "pad": _identity,
    "reshape": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "concat": _concat,
    "split": _split,
    "size": _size,
}
