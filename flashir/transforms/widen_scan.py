"""widen-scan: fuse the ops around a loop over chunks into the loop, if they can run chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from flashir.ir.builder import Builder
from flashir.ir.graph import Graph, Node, Value
from flashir.ops.primitive.scan import cut_scan
from flashir.transforms.chunk_analysis import AxisLayout, Chunks, one_chunk
from flashir.transforms.pipeline import Pass

Seen = tuple[Value, AxisLayout | None]
AXIS = 1  # the axis of chunks in [b, g, n, s]


@dataclass(frozen=True)
class WidenScan(Pass):
    """`%y = g(scan(f(%x)) (..) { .. })` -> `%y = scan(%x) (..) { g(.. f(..)) }`

    The values of one chunk stay in the cache from op to op, and only those of one chunk are alive. For targets that run
    op by op and pack weights once for all steps of a loop.
    """

    name = "widen-scan"

    def apply(self, graph: Graph) -> Graph:
        """Fuse ops into the first loop over chunks, along with later loops; also in the body of every repeat."""
        nodes = tuple(
            replace(node, region=self.apply(node.region)) if node.op == "repeat" and node.region else node
            for node in graph.nodes
        )
        graph = graph if nodes == graph.nodes else replace(graph, nodes=nodes)
        for loop in graph.nodes:
            reach = _around(graph, loop) if loop.op == "scan" else None
            if reach is not None:
                return _widened(graph, reach)
        return graph


@dataclass(frozen=True)
class _Reach:
    """The part of a graph that can be fused into a loop.

    Args:
        chunks: the chunks that the loop iterates over.
        nodes: the nodes that can run chunk by chunk, in order, with the layouts of their operands.
        known: the layouts of the tokens and of the results of these nodes.
        before: the nodes that run before the loop: they do not depend on the tokens.
        after: the nodes that run after the loop.
        results: values computed inside the loop and read after it.
    """

    chunks: Chunks
    nodes: list[tuple[Node, list[AxisLayout | None]]]
    known: dict[Value, AxisLayout]
    before: list[Node]
    after: list[Node]
    results: list[Value]

    def entries(self) -> list[Seen]:
        """The values from outside the loop, except carried ones, with their layouts and without repetition."""
        inside = {value for node, _ in self.nodes for value in node.outputs}
        entries: dict[Seen, None] = {}
        for node, seen in self.nodes:
            carries = len(cut_scan(node.operands, node.attrs)[0]) if node.op == "scan" else 0
            pairs = list(zip(node.operands, seen, strict=True))[carries:]
            entries.update({pair: None for pair in pairs if pair[0] not in inside})
        return list(entries)


def _around(graph: Graph, loop: Node) -> _Reach | None:
    """The part that can be fused into a loop over chunks; None if there is none, or it is another loop."""
    carried, walked, _ = cut_scan(loop.operands, loop.attrs)
    shape = walked[0].type.shape
    if not carried or loop.attrs["axis"] != AXIS or len(shape) < 3 or not isinstance(shape[2], int):
        return None
    chunks = Chunks(shape[AXIS], shape[2])
    needed = _upstream(graph, loop.operands)
    values = (*graph.inputs, *(value for node in graph.nodes for value in node.outputs))
    tokens = next((value for value in values if value in needed and _holds_tokens(value, chunks)), None)
    if tokens is None:
        return None
    reach = _Reach(chunks, [], {tokens: AxisLayout(AXIS, chunks.rows)}, [], [], [])
    tainted: set[Value] = set()
    for node in _alive(graph):
        aware = any(value in reach.known for value in node.operands)
        free = tainted.isdisjoint(node.operands)
        spread = chunks.spread(node, reach.known) if aware and free else None
        if spread is not None:
            seen, along = spread
            stacked = node.outputs[len(node.outputs) - len(along) :]
            reach.nodes.append((node, seen))
            reach.known.update(zip(stacked, along, strict=True))
            tainted.update(node.outputs[: -len(along)])
        elif aware or not free:
            reach.after.append(node)
            tainted.update(node.outputs)
        else:
            reach.before.append(node)
    read = {value for node in reach.after for value in node.operands} | set(graph.outputs)
    inside = [value for node, _ in reach.nodes for value in node.outputs]
    reach.results.extend(value for value in inside if value in read)
    crossing = [along for _, along in reach.entries() if along] + [reach.known.get(value) for value in reach.results]
    plain = all(
        along is not None and along.axis <= AXIS for along in crossing
    )  # false for a final state, which is not per chunk
    return reach if plain and len(reach.nodes) > 1 and any(node is loop for node, _ in reach.nodes) else None


def _alive(graph: Graph) -> list[Node]:
    """The nodes that the results depend on."""
    needed = _upstream(graph, graph.outputs)
    return [node for node in graph.nodes if not needed.isdisjoint(node.outputs)]


def _upstream(graph: Graph, values: Iterable[Value]) -> set[Value]:
    """The values, and all values that they depend on."""
    needed = set(values)
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.operands)
    return needed


def _holds_tokens(value: Value, chunks: Chunks) -> bool:
    """Whether the shape is [b, t, *], where t is the total size of the chunks."""
    type_ = value.type
    return type_.rank == 3 and type_.dtype.is_float and chunks.fits(type_.shape[AXIS], AxisLayout(AXIS, chunks.rows))


def _widened(graph: Graph, reach: _Reach) -> Graph:
    """The graph with the part fused into one loop."""
    b = Builder(graph.name)
    outside = {value: b.input(value.name, value.type) for value in graph.inputs}
    b.inline(reach.before, outside)
    body = _Body(b.subgraph(), reach, outside)
    for value, along in reach.entries():
        body.enter(b, value, along)
    for node, seen in reach.nodes:
        body.add(node, seen)
    stacked = body.loop(b)
    outside.update((old, b.reshape(new, shape=old.type.shape)) for old, new in zip(reach.results, stacked, strict=True))
    b.inline(reach.after, outside)
    return b.finish(*(outside[value] for value in graph.outputs))


class _Body:
    """The body of the fused loop. The token axis of its values has the size of one chunk."""

    def __init__(self, b: Builder, reach: _Reach, outside: Mapping[Value, Value]) -> None:
        self.b = b
        self.reach = reach
        self.outside = outside
        self.inside: dict[Seen, Value] = {}
        self.carries: list[tuple[Value, Value, Value]] = []
        """Per carried value: the initial value outside the loop, the value before a step, the value after it."""
        self.walked: list[tuple[Value, Value]] = []
        self.whole: list[tuple[Value, Value]] = []

    def enter(self, b: Builder, value: Value, along: AxisLayout | None) -> None:
        """Add an operand of the loop: sliced by chunk, or an invariant."""
        outer = self.outside[value]
        maker = b.producer(outer)
        if along is None and maker is not None and maker.op == "constant":
            self.inside[value, along] = self.b.insert("constant", (), maker.attrs)[0]
        elif along is None:
            self.inside[value, along] = self.b.input(value.name, value.type)
            self.whole.append((outer, self.inside[value, along]))
        else:
            first, *rest = (1, *value.type.shape) if along.axis == 0 else value.type.shape
            cut = b.reshape(outer, shape=(first, self.reach.chunks.count, along.rows, *rest[1:]))
            item = self.b.input(value.name, cut.type.with_shape((first, along.rows, *rest[1:])))
            self.walked.append((cut, item))
            self.inside[value, along] = self.b.reshape(item, shape=one_chunk(value.type.shape, along))

    def add(self, node: Node, seen: Sequence[AxisLayout | None]) -> None:
        """Copy a node into the body, for one chunk."""
        if node.op == "scan":
            self._join(node, seen)
            return
        layouts = dict(zip(node.operands, seen, strict=True))
        operands = [None if value is None else self.inside[value, layouts[value]] for value in node.inputs]
        attrs = dict(node.attrs)
        if node.op == "reshape":
            attrs["shape"] = one_chunk(node.output.type.shape, self.reach.known[node.output])
        self._define(node.outputs, self.b.insert(node.op, operands, attrs, node.region))

    def _join(self, node: Node, seen: Sequence[AxisLayout | None]) -> None:
        """Copy the body of a loop over chunks into this body."""
        carried = cut_scan(node.operands, node.attrs)[0]
        body = node.region
        assert body is not None
        states = [self.b.input("state", value.type) for value in carried]
        values = dict(zip(body.inputs, states))
        rest = list(zip(node.operands, seen, strict=True))[len(carried) :]
        for own, (value, along) in zip(body.inputs[len(carried) :], rest, strict=True):
            values[own] = (
                self.b.reshape(self.inside[value, along], shape=own.type.shape) if along else self.inside[value, None]
            )
        self.b.inline(body.nodes, values)
        after, items = body.outputs[: len(carried)], body.outputs[len(carried) :]
        firsts = (self.outside[value] for value in carried)
        self.carries.extend(zip(firsts, states, (values[value] for value in after), strict=True))
        stacked = node.outputs[len(carried) :]
        shapes = [one_chunk(value.type.shape, self.reach.known[value]) for value in stacked]
        self._define(stacked, [self.b.reshape(values[y], shape=shape) for y, shape in zip(items, shapes, strict=True)])

    def _define(self, values: Sequence[Value], inside: Sequence[Value]) -> None:
        self.inside.update({(v, self.reach.known[v]): x for v, x in zip(values, inside, strict=True)})

    def loop(self, b: Builder) -> Sequence[Value]:
        """Insert the loop into the outer graph and return its stacked results."""
        results = []
        for value in self.reach.results:
            along, (first, *rest) = self.reach.known[value], value.type.shape
            shape = (1, along.rows, *rest) if along.axis == 0 else (first, along.rows, *rest[1:])
            results.append(self.b.reshape(self.inside[value, along], shape=shape))
        befores = [before for _, before, _ in self.carries]
        graph = self.b.finish(*(after for *_, after in self.carries), *results)
        order = (*befores, *(item for _, item in self.walked), *(item for _, item in self.whole))
        operands = [*(first for first, *_ in self.carries), *(x for x, _ in (*self.walked, *self.whole))]
        counts = {"carries": len(befores), "axis": AXIS, "invariants": len(self.whole)}
        return b.insert("scan", operands, counts, replace(graph, inputs=order))[len(befores) :]
