"""widen-scan: what a model does chunk by chunk around a loop over chunks, it does inside the loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from flashir.ir.builder import Builder
from flashir.ir.graph import Graph, Node, Value
from flashir.ops.primitive.scan import cut_scan
from flashir.transforms.chunk_analysis import AxisLayout, Chunks, one_chunk
from flashir.transforms.pipeline import Pass

Seen = tuple[Value, AxisLayout | None]
AXIS = 1  # of the chunks, in [b, g, n, s]


@dataclass(frozen=True)
class FuseIntoScan(Pass):
    """`%y = g(scan(f(%x)) (..) { .. })` -> `%y = scan(%x) (..) { g(.. f(..)) }`

    The values of one chunk stay in the cache from op to op, and those of no more than one chunk are alive. For
    targets that run op by op, and that lay weights out once for all steps of a loop.
    """

    name = "widen-scan"

    def apply(self, graph: Graph) -> Graph:
        """Widen the first loop over chunks, and those that join it; so in the body of every repeat."""
        nodes = tuple(
            replace(node, region=self.apply(node.region)) if node.op == "repeat" and node.region else node
            for node in graph.nodes
        )
        graph = graph if nodes == graph.nodes else replace(graph, nodes=nodes)
        for loop in graph.nodes:
            found = _around(graph, loop) if loop.op == "scan" else None
            if found is not None:
                return _widened(graph, found)
        return graph


@dataclass(frozen=True)
class _Reach:
    """What can be done inside a loop.

    Args:
        chunks: what the loop walks over.
        nodes: those that treat chunks alike, in order, and how each sees its operands.
        known: how the tokens lie, and the results of these nodes.
        before, after: nodes that do not depend on them; and the others.
        results: values made inside that are read outside.
    """

    chunks: Chunks
    nodes: list[tuple[Node, list[AxisLayout | None]]]
    known: dict[Value, AxisLayout]
    before: list[Node]
    after: list[Node]
    results: list[Value]

    def entries(self) -> list[Seen]:
        """What comes from outside, carries excepted, and how it is seen; each once."""
        made = {value for node, _ in self.nodes for value in node.outputs}
        found: dict[Seen, None] = {}
        for node, seen in self.nodes:
            carries = len(cut_scan(node.operands, node.attrs)[0]) if node.op == "scan" else 0
            pairs = list(zip(node.operands, seen, strict=True))[carries:]
            found.update({pair: None for pair in pairs if pair[0] not in made})
        return list(found)


def _around(graph: Graph, loop: Node) -> _Reach | None:
    """What can join a loop over chunks; None where nothing can, or where it is none."""
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
    made = [value for node, _ in reach.nodes for value in node.outputs]
    reach.results.extend(value for value in made if value in read)
    crossing = [along for _, along in reach.entries() if along] + [reach.known.get(value) for value in reach.results]
    plain = all(along is not None and along.axis <= AXIS for along in crossing)  # a last state is none of one chunk
    return reach if plain and len(reach.nodes) > 1 and any(node is loop for node, _ in reach.nodes) else None


def _alive(graph: Graph) -> list[Node]:
    """The nodes that a result depends on."""
    needed = _upstream(graph, graph.outputs)
    return [node for node in graph.nodes if not needed.isdisjoint(node.outputs)]


def _upstream(graph: Graph, values: Iterable[Value]) -> set[Value]:
    """The values, and those that they depend on."""
    needed = set(values)
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.operands)
    return needed


def _holds_tokens(value: Value, chunks: Chunks) -> bool:
    """Whether it is [b, t, *], t as long as the chunks together."""
    type_ = value.type
    return type_.rank == 3 and type_.dtype.is_float and chunks.fits(type_.shape[AXIS], AxisLayout(AXIS, chunks.rows))


def _widened(graph: Graph, reach: _Reach) -> Graph:
    """The graph with one loop around all that can be done inside."""
    b = Builder(graph.name)
    outside = {value: b.input(value.name, value.type) for value in graph.inputs}
    for node in reach.before:
        _copy(b, node, outside)
    body = _Body(b.subgraph(), reach, outside)
    for value, along in reach.entries():
        body.enter(b, value, along)
    for node, seen in reach.nodes:
        body.add(node, seen)
    made = body.loop(b)
    outside.update(
        (value, b.reshape(each, shape=value.type.shape)) for value, each in zip(reach.results, made, strict=True)
    )
    for node in reach.after:
        _copy(b, node, outside)
    return b.finish(*(outside[value] for value in graph.outputs))


def _copy(b: Builder, node: Node, values: dict[Value, Value]) -> None:
    operands = [None if value is None else values[value] for value in node.inputs]
    made = b.insert(node.op, operands, node.attrs, node.region, names=[value.name for value in node.outputs])
    values.update(zip(node.outputs, made, strict=True))


class _Body:
    """The body of the wider loop: every value of one chunk, its axis of tokens as long as one chunk's."""

    def __init__(self, b: Builder, reach: _Reach, outside: Mapping[Value, Value]) -> None:
        self.b = b
        self.reach = reach
        self.outside = outside
        self.inside: dict[Seen, Value] = {}
        self.carries: list[tuple[Value, Value, Value]] = []
        """For each, its first value outside; as it is before a step, and after."""
        self.walked: list[tuple[Value, Value]] = []
        self.whole: list[tuple[Value, Value]] = []

    def enter(self, b: Builder, value: Value, along: AxisLayout | None) -> None:
        """Let a value in: walked over, or seen whole."""
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
        """Do in a step what a node does to one chunk."""
        if node.op == "scan":
            self._join(node, seen)
            return
        sight = dict(zip(node.operands, seen, strict=True))
        operands = [None if value is None else self.inside[value, sight[value]] for value in node.inputs]
        attrs = dict(node.attrs)
        if node.op == "reshape":
            attrs["shape"] = one_chunk(node.output.type.shape, self.reach.known[node.output])
        self._made(node.outputs, self.b.insert(node.op, operands, attrs, node.region))

    def _join(self, node: Node, seen: Sequence[AxisLayout | None]) -> None:
        """A step of a loop over chunks, in this one's."""
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
        for each in body.nodes:
            _copy(self.b, each, values)
        after, made = body.outputs[: len(carried)], body.outputs[len(carried) :]
        firsts = (self.outside[value] for value in carried)
        self.carries.extend(zip(firsts, states, (values[value] for value in after), strict=True))
        stacked = node.outputs[len(carried) :]
        shapes = [one_chunk(value.type.shape, self.reach.known[value]) for value in stacked]
        self._made(stacked, [self.b.reshape(values[y], shape=shape) for y, shape in zip(made, shapes, strict=True)])

    def _made(self, values: Sequence[Value], inside: Sequence[Value]) -> None:
        self.inside.update({(v, self.reach.known[v]): x for v, x in zip(values, inside, strict=True)})

    def loop(self, b: Builder) -> Sequence[Value]:
        """The loop, in the graph outside: its stacked results."""
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
