"""Kernels: how the nodes of a lowered graph come together in groups that a target runs as one.

%1 = matmul(%x, %w); %2 = add(%1, %c); %3 = relu(%2)   ->   one kernel where the target fuses, else three
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flashir.ir.dims import Size
from flashir.ir.graph import Graph, Node, Value
from flashir.ir.types import TensorType
from flashir.ops import OPS, Contraction, Cost
from flashir.ops.shape import bind_attrs

Sizes = Mapping[str, int]


@dataclass
class Kernel:
    """Nodes that run as one, and what they cost together."""

    nodes: list[Node] = field(default_factory=list)
    flops: float = 0.0
    contractions: list[Contraction] = field(default_factory=list)
    read: dict[Value, float] = field(default_factory=dict)
    written: dict[Value, float] = field(default_factory=dict)

    @property
    def bytes(self) -> float:
        """Bytes from and to memory."""
        return sum(self.read.values()) + sum(self.written.values())


class Region:
    """One graph, or body, with all sizes known: its kernels in order, and where its values are stored."""

    def __init__(self, graph: Graph, sizes: Sizes, *, fuses: bool) -> None:
        self.graph = graph
        self.sizes = dict(sizes)
        self._types: dict[Value, TensorType] = {}
        self._homes: dict[Value, Value] = {}
        self.kernels: list[Kernel] = []
        self._collect(fuses)

    def type(self, value: Value) -> TensorType:
        """The type with every size a number."""
        found = self._types.get(value)
        if found is None:
            found = self._types[value] = value.type.bind(self.sizes)
        return found

    def home(self, value: Value) -> Value:
        """The value whose memory this one is a view of; itself where it has its own."""
        return self._homes.get(value, value)

    def known(self, size: Size) -> int:
        """A size as a number."""
        from flashir.ir.dims import evaluate

        return evaluate(size, self.sizes)

    def cost(self, node: Node) -> Cost:
        """What the op's record says of a node without a body."""
        ins = tuple(self.type(v) if v is not None else None for v in node.inputs)
        outs = tuple(self.type(v) for v in node.outputs)
        return OPS[node.op].cost(ins, outs, **bind_attrs(dict(node.attrs), self.sizes))

    def _collect(self, fuses: bool) -> None:
        made_in: dict[Value, int] = {}
        for node in self.graph.nodes:
            if node.region is not None:
                self.kernels.append(Kernel([node]))
                continue
            cost = self.cost(node)
            if cost.steps == 0:  # a view, or a constant that is part of whoever reads it
                if node.operands:
                    home = self.home(node.operands[0])
                    self._homes.update(dict.fromkeys(node.outputs, home))
                continue
            homes = [self.home(value) for value in node.operands]
            joins = max((made_in[h] for h in homes if h in made_in), default=None)
            alone = not fuses or joins is None or bool(cost.contractions) or node.op in UNFUSED
            if alone:
                joins = len(self.kernels)
                self.kernels.append(Kernel())
            assert joins is not None
            self._add(self.kernels[joins], node, cost)
            if node.op not in UNFUSED:
                made_in.update(dict.fromkeys(node.outputs, joins))
        if fuses:
            self._keep_inside()

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

    def _keep_inside(self) -> None:
        """Values that only their own kernel reads never reach the memory."""
        outside = {self.home(value) for value in self.graph.outputs}
        for kernel in self.kernels:
            outside.update(kernel.read)
            outside.update(self.home(v) for node in kernel.nodes if node.region is not None for v in node.operands)
        for kernel in self.kernels:
            if len(kernel.nodes) > 1:
                kernel.written = {value: size for value, size in kernel.written.items() if value in outside}


UNFUSED = frozenset(("cumsum", "gather", "concat", "reverse"))
"""Ops that compilers run as kernels of their own."""
