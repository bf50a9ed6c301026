"""keep-range: in a float16 model, values that grow with the sequence length are computed in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from flashir.ir.builder import Builder
from flashir.ir.graph import Graph, Node, Value
from flashir.ir.types import DType
from flashir.ops import OPS
from flashir.ops.functions.norm import as_dtype
from flashir.ops.primitive.scan import cut_scan
from flashir.transforms.growth import Growth
from flashir.transforms.lower import Claims, descend, primitives
from flashir.transforms.pipeline import Pass
from flashir.transforms.rewriter import rewrite

NARROW, WIDE = DType.F16, DType.F32


@dataclass(frozen=True)
class KeepRange(Pass):
    """`%y = matmul(%w, %v): f16`, summed over tokens -> `%y = matmul(cast(%w), cast(%v)): f32`; also the readers of %y

    A sum over all tokens, as in attention without softmax, grows with the length. The largest float16 number is 65,504,
    so the sum overflows after a few thousand tokens. Such a sum and the values computed from it are kept in float32
    until a norm or a mean makes them small again. Models in bfloat16 or float32 do not change, nor do values that are
    divided by what grows: by softmax, a norm or `chunk_mean`.

    Args:
        target, claims: as in `Lower`. An op that is not claimed in float32 is replaced by its decomposition.
        carried, lengths: as in `Growth.within`.
    """

    name = "keep-range"
    optional = False
    target: str = "primitives"
    claims: Claims = field(default=primitives, repr=False)
    carried: int = 0
    lengths: tuple[int, ...] = ()

    def apply(self, graph: Graph) -> Graph:
        """Compute every float16 value that grows in float32."""
        if not any(value.type.dtype is NARROW for node in graph.walk() for value in node.outputs):
            return graph
        growth = Growth.within(graph, carried=self.carried, lengths=self.lengths)
        b = Builder(graph.name)
        widened = _Widened(growth, b, {value: b.input(value.name, value.type) for value in graph.inputs})
        outputs = [as_dtype(b, new, old.type.dtype) for old, new in zip(graph.outputs, widened.run(graph), strict=True)]
        return rewrite(b.finish(*outputs), descend(self.claims, self.target)) if widened.changed else graph


class _Widened:
    """Copies one graph or loop body into a builder, with the values that grow in float32.

    Args:
        growth: the growth of the values of the graph.
        b: the builder.
        values: values of the graph -> values of the builder, at first for the inputs.
    """

    def __init__(self, growth: Growth, b: Builder, values: dict[Value, Value]) -> None:
        self.growth, self.b, self.values = growth, b, values
        self.changed = False

    def run(self, graph: Graph) -> list[Value]:
        """Copy every node and return the new results."""
        for node in graph.nodes:
            operands = [None if value is None else self.values[value] for value in node.inputs]
            self.values.update(zip(node.outputs, self._node(node, operands), strict=True))
        return [self.values[value] for value in graph.outputs]

    def _grows(self, value: Value) -> bool:
        return value.type.dtype is NARROW and self.growth.of[value] > 0

    def _node(self, node: Node, operands: Sequence[Value | None]) -> Sequence[Value]:
        if node.region is not None:
            return self._loop(node, node.region, [value for value in operands if value is not None])
        same = all(old is None or new is None or old.type == new.type for old, new in zip(node.inputs, operands))
        grows = any(map(self._grows, node.outputs))
        if same and not grows:
            return self._insert(node, operands)
        self.changed = True
        if grows:
            node = replace(node, attrs={name: WIDE if attr is NARROW else attr for name, attr in node.attrs.items()})
        results = self._insert(node, [self._wide(value) for value in operands])
        return [
            new if self._grows(old) else as_dtype(self.b, new, old.type.dtype)
            for old, new in zip(node.outputs, results, strict=True)
        ]

    def _wide(self, value: Value | None) -> Value | None:
        """The value, cast to float32 if it is float16."""
        return as_dtype(self.b, value, WIDE) if value is not None and value.type.dtype is NARROW else value

    def _insert(self, node: Node, operands: Sequence[Value | None], region: Graph | None = None) -> Sequence[Value]:
        names = [value.name for value in node.outputs]
        return self.b.insert(node.op, operands, node.attrs, region, names=names)

    def _loop(self, node: Node, body: Graph, operands: list[Value]) -> Sequence[Value]:
        """Copy a loop. What it carries is float32 if it grows."""
        inside = self.growth.regions[id(node)]
        count = 1 if node.op == "repeat" else len(cut_scan(operands, node.attrs)[0])
        carried = [
            as_dtype(self.b, new, WIDE) if old.type.dtype is NARROW and inside.of[old] > 0 else new
            for old, new in zip(body.inputs[:count], operands[:count], strict=True)
        ]
        operands = [*carried, *operands[count:]]
        arguments = OPS[node.op].region
        assert arguments is not None
        b = self.b.subgraph()
        types = arguments([value.type for value in operands], node.attrs)
        widened = _Widened(inside, b, {v: b.input(v.name, t) for v, t in zip(body.inputs, types, strict=True)})
        results = widened.run(body)
        results[:count] = [as_dtype(b, x, t.dtype) for x, t in zip(results[:count], types[:count], strict=True)]
        self.changed |= widened.changed or any(old.type != new.type for old, new in zip(node.operands, operands))
        return self._insert(node, operands, b.finish(*results))
