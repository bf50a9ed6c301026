"""Kernels: which nodes of a lowered graph a target runs as one kernel. `estimate` gives each kernel a time.

%1 = matmul(%x, %w); %2 = add(%1, %c); %3 = relu(%2)   ->   one kernel where the target fuses, else three
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from flashir.cost.backward import read_by_gradient, saved_by
from flashir.cost.node_cost import Sizes, node_cost
from flashir.ir.dims import Size, evaluate
from flashir.ir.graph import Graph, Node, Value
from flashir.ir.types import TensorType
from flashir.ops import OPS, Contraction, Cost

SIDES = 2  # operands of a product; the gradient of each is a product


@dataclass
class Kernel:
    """Nodes that run as one kernel, and their total cost."""

    nodes: list[Node] = field(default_factory=list)
    flops: float = 0.0
    contractions: list[Contraction] = field(default_factory=list)
    read: dict[Value, float] = field(default_factory=dict)
    written: dict[Value, float] = field(default_factory=dict)
    saved: float = 0.0
    """In training, the bytes of the saved values that its gradient reads."""
    gradients: int = 0
    """The number of gradient kernels: one per operand of a product that a gradient reaches, otherwise one or none."""

    @property
    def bytes(self) -> float:
        """Bytes read from and written to memory."""
        return sum(self.read.values()) + sum(self.written.values())


class KernelGraph:
    """A graph, or the body of a loop, as kernels in order, with all sizes known, and where its values are stored.

    Args:
        graph: the lowered graph.
        sizes: the value of each of its symbols.
        fuses: whether elementwise ops are fused with their neighbours.
        epilogues: whether they are also fused with the product that they follow.
        reached: the values that a gradient reaches; empty if no backward pass follows.
    """

    def __init__(
        self, graph: Graph, sizes: Sizes, *, fuses: bool, epilogues: bool = True, reached: Set[Value] = frozenset()
    ) -> None:
        self.graph = graph
        self.reached = reached
        self.saved: set[Value] = set()
        self._bound: set[Value] = set()
        self.sizes = dict(sizes)
        self._types: dict[Value, TensorType] = {}
        self._homes: dict[Value, Value] = {}
        self.kernels: list[Kernel] = []
        self._collect(fuses, epilogues)
        outside = self._outside()
        self._bound.update(self.home(value) for value in graph.outputs)
        if reached:
            self._keep(outside)
        if fuses or epilogues:
            self._keep_inside(outside)

    def type(self, value: Value) -> TensorType:
        """The type with every size a number."""
        bound = self._types.get(value)
        if bound is None:
            bound = self._types[value] = value.type.bind(self.sizes)
        return bound

    def home(self, value: Value) -> Value:
        """The value that owns the memory of this one; differs from it for a view."""
        return self._homes.get(value, value)

    def known(self, size: Size) -> int:
        """A size as a number."""
        return evaluate(size, self.sizes)

    def cost(self, node: Node) -> Cost:
        """The cost of a node without a body."""
        return node_cost(node, self.sizes, self.type)

    def gradient_bytes(self, kernel: Kernel) -> float:
        """Bytes that the gradient of a kernel moves: the saved values, and a gradient per value it read or wrote.

        If the gradient is several kernels, each of them reads the gradient of the result.
        """
        read = sum(size for value, size in kernel.read.items() if value in self.reached)
        written = sum(size for value, size in kernel.written.items() if value in self.reached)
        return kernel.saved + read + kernel.gradients * written

    def _collect(self, fuses: bool, epilogues: bool) -> None:
        kernel_of: dict[Value, int] = {}
        for node in self.graph.nodes:
            if node.region is not None:
                self.kernels.append(Kernel([node]))
                self._bound.update(self.home(value) for value in node.operands)
                continue
            cost = self.cost(node)
            if cost.steps == 0:  # a view, or a constant that its readers inline
                if node.operands:
                    home = self.home(node.operands[0])
                    self._homes.update(dict.fromkeys(node.outputs, home))
                continue
            homes = [self.home(value) for value in node.operands]
            if cost.contractions or not OPS[node.op].fuses:
                self._bound.update(homes)
            joins = max((kernel_of[h] for h in homes if h in kernel_of), default=None)
            alone = joins is None or bool(cost.contractions) or not OPS[node.op].fuses
            if not fuses and not alone:
                assert joins is not None
                alone = not (epilogues and self.kernels[joins].contractions)
            if alone:
                joins = len(self.kernels)
                self.kernels.append(Kernel())
            assert joins is not None
            self._add(self.kernels[joins], node, cost)
            if OPS[node.op].fuses and (epilogues or not cost.contractions):
                kernel_of.update(dict.fromkeys(node.outputs, joins))

    def _add(self, kernel: Kernel, node: Node, cost: Cost) -> None:
        kernel.nodes.append(node)
        kernel.flops += cost.flops
        kernel.contractions += cost.contractions
        sizes = [self.type(value).bytes for value in node.operands]
        share = min(1.0, cost.read / max(sum(sizes), 1))  # a gather reads a part of its table
        for value, size in zip(node.operands, sizes, strict=True):
            home = self.home(value)
            if home not in kernel.written:
                kernel.read[home] = max(kernel.read.get(home, 0.0), size * share)
        kernel.written.update({value: float(self.type(value).bytes) for value in node.outputs})

    def _keep(self, outside: set[Value]) -> None:
        """Find the values that the backward pass reads.

        Values inside a fused kernel are recomputed: from its product if it has one, otherwise from its operands.
        """
        self.saved = {self.home(value) for value in saved_by(self.graph, self.reached)}
        for kernel in self.kernels:
            if kernel.nodes[0].region is not None:
                continue
            again = {self.home(v) for node in kernel.nodes for v in read_by_gradient(node, self.reached)}
            inside = {value for value in again if value in kernel.written and value not in outside}
            if inside and len(kernel.nodes) > 1:
                sources = {kernel.nodes[0].output} if kernel.contractions else set(kernel.read)
                self.saved = (self.saved - inside) | sources
                again = (again - inside) | sources
                if kernel.contractions:
                    self._replay(kernel, outside)
            kernel.saved = float(sum(self.type(value).bytes for value in again))
            kernel.gradients = self._gradients(kernel)

    def _gradients(self, kernel: Kernel) -> int:
        if all(self.reached.isdisjoint(node.outputs) for node in kernel.nodes):
            return 0
        sides = sum(value in self.reached for value in kernel.nodes[0].operands)
        return min(sides, SIDES) if kernel.contractions else 1

    def _replay(self, kernel: Kernel, outside: set[Value]) -> None:
        """Do not write an epilogue of a saved product: its readers recompute it from the product."""
        source = kernel.nodes[0].output
        for value in [v for v in kernel.written if v is not source and v in outside]:
            readers = [k for k in self.kernels if value in k.read]
            if value in self._bound or not readers:
                continue
            del kernel.written[value]
            self.saved.discard(value)
            for reader in readers:
                reader.read[source] = reader.read.get(source, 0.0) + reader.read.pop(value)

    def _outside(self) -> set[Value]:
        """The values that other kernels than their own read."""
        values = {self.home(value) for value in self.graph.outputs}
        for kernel in self.kernels:
            values.update(kernel.read)
            values.update(self.home(v) for node in kernel.nodes if node.region is not None for v in node.operands)
        return values

    def _keep_inside(self, outside: set[Value]) -> None:
        """Do not write values that only their own kernel reads, forward and backward."""
        for kernel in self.kernels:
            if len(kernel.nodes) > 1:
                kernel.written = {v: size for v, size in kernel.written.items() if v in outside or v in self.saved}
