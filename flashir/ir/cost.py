"""The machine-independent cost of one op: arithmetic, bytes moved, sequential steps. Targets turn it into time."""

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
    """A batch of matrix products [m, k] x [k, n]."""

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
        flops: elementwise operations; a transcendental function counts by its `elementwise` weight.
        read: bytes read from operands.
        written: bytes written to results.
        steps: sequential steps; 1 for an ordinary op, G for a scan over G chunks, 0 for a view.
        contractions: matrix products. They are not part of `flops`, because matrix units compute them.
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
        """The cost of doing this `count` times in sequence."""
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
    """Memory traffic only: every operand is read once, every result written once."""
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
    """Results without operands: written once."""
    return moved((), outs)


def copied(ins: Types, outs: Types, **attrs: Attr) -> Cost:
    """As in a slice or a gather, only the part of the operands that reaches the result is read."""
    written = sum(t.bytes for t in outs if t is not None)
    return Cost(read=written, written=written)


def matrix_product(a: TensorType, b: TensorType, out: TensorType, k: int) -> Contraction:
    """The contraction of `a` and `b` over `k` elements into `out`, where the last two axes of `out` are [m, n]."""
    *batch, m, n = out.sizes
    if len(b.sizes) == 2:  # all rows share the right side: fold the batch into the rows
        return Contraction(1, prod(batch) * m, k, n)
    return Contraction(prod(batch), m, k, n)
