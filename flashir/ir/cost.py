"""What one op costs on any machine: arithmetic, bytes moved, sequential steps. Targets turn this into time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

from flashir.ir.graph import Attr
from flashir.ir.types import TensorType

Types = tuple[TensorType | None, ...]
CostRule = Callable[..., "Cost"]


@dataclass(frozen=True)
class Contraction:
    """A batch of matrix products [m, k] x [k, n]; `constant` where the right side is a parameter."""

    batch: int
    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.batch * self.m * self.k * self.n


@dataclass(frozen=True)
class Cost:
    """The work of one op.

    Args:
        flops: elementwise arithmetic, in operations; a transcendental function counts by its `elementwise` weight.
        read: bytes read from operands.
        written: bytes written to results.
        steps: dependent steps that cannot overlap; 1 for any ordinary op, G for a scan over G chunks.
        contractions: matrix products, apart from `flops` because matrix units do them.
    """

    flops: float = 0.0
    read: float = 0.0
    written: float = 0.0
    steps: int = 1
    contractions: tuple[Contraction, ...] = ()

    @property
    def bytes(self) -> float:
        """Bytes read and written."""
        return self.read + self.written

    @property
    def matrix_flops(self) -> int:
        """Arithmetic of the matrix products."""
        return sum(contraction.flops for contraction in self.contractions)

    def times(self, count: int) -> Cost:
        """The cost of doing this `count` times, one after the other."""
        return Cost(
            self.flops * count,
            self.read * count,
            self.written * count,
            self.steps * count,
            tuple(replace(c, batch=c.batch * count) for c in self.contractions),
        )

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.read + other.read,
            self.written + other.written,
            self.steps + other.steps,
            self.contractions + other.contractions,
        )


def moved(ins: Types, outs: Types, **attrs: Attr) -> Cost:
    """Only the traffic: every operand read once, every result written once."""
    return Cost(read=sum(t.bytes for t in ins if t is not None), written=sum(t.bytes for t in outs if t is not None))


def elementwise(weight: float) -> CostRule:
    """`weight` operations per element of the first result."""

    def rule(ins: Types, outs: Types, **attrs: Attr) -> Cost:
        return replace(moved(ins, outs), flops=weight * (outs[0].count if outs[0] is not None else 0))

    return rule


def per_input(weight: float) -> CostRule:
    """`weight` operations per element of the first operand, as in a reduction."""

    def rule(ins: Types, outs: Types, **attrs: Attr) -> Cost:
        return replace(moved(ins, outs), flops=weight * (ins[0].count if ins[0] is not None else 0))

    return rule


def free(ins: Types, outs: Types, **attrs: Attr) -> Cost:
    """A change of view: no element moves."""
    return Cost(steps=0)


def generated(ins: Types, outs: Types, **attrs: Attr) -> Cost:
    """Results made from nothing: written once."""
    return moved((), outs)


def copied(ins: Types, outs: Types, **attrs: Attr) -> Cost:
    """Only the part of the operands that reaches the result is read, as in a slice or a gather."""
    written = sum(t.bytes for t in outs if t is not None)
    return Cost(read=written, written=written)


def matrix_product(a: TensorType, b: TensorType, out: TensorType, k: int) -> Contraction:
    """The contraction of `a` and `b` over `k` elements into `out`, where the last two axes of `out` are [m, n]."""
    *batch, m, n = out.sizes
    if len(b.sizes) == 2:  # one right side for every row: the batch joins the rows
        return Contraction(1, prod(batch) * m, k, n)
    return Contraction(prod(batch), m, k, n)
