"""Turn a graph into boxes and edges: a card per node, a pill per input, a frame per region."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from flashir.cli.page.facts import attributes, family
from flashir.cli.page.layout import Box, Edge, Layout, place
from flashir.ir import Graph, Node, Value

TITLE, SMALL = 7.4, 6.35  # widths of a character
CARD_PAD, LINE, HEAD = 14.0, 15.0, 20.0
LONGEST = 34
MOST_LINES = 3
FRAME, FRAME_HEAD, FRAME_LOW = 26.0, 62.0, 34.0


@dataclass
class Item:
    """An item of the page.

    Args:
        kind: `card`, `pill` (an input, output or source) or `frame` (a region).
        family: the family of ops, which decides the colour.
        title, lines: the text.
        box: the position.
        node: the node, if it shows one.
        number: the number of the node in the page.
        inside: the scene in a frame.
        folds: the numbers of the constants that are written on it.
    """

    kind: str
    family: str
    title: str
    lines: list[str]
    box: Box
    node: Node | None = None
    number: int | None = None
    inside: Scene | None = None
    folds: tuple[int, ...] = ()


@dataclass
class Scene:
    """The items of a graph, the edges between them, the value of each edge, and the layout."""

    items: list[Item] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    layout: Layout = field(default_factory=lambda: Layout(0.0, 0.0, []))


def scene(graph: Graph, numbers: dict[int, int], last: str = "return") -> Scene:
    """Lay a graph out.

    Args:
        graph: the graph, or the body of a region.
        numbers: the number of each node, by its `id`.
        last: the title of the outputs: `return`, or `yield` in a body.
    """
    result = Scene()
    homes: dict[Value, tuple[int, int]] = {}
    folded = {node.output: node for node in graph.nodes if node.op == "constant" and _foldable(graph, node)}
    for value in graph.inputs:
        homes[value] = len(result.items), 0
        result.items.append(_pill(str(value), str(value.type), "input"))
    for node in graph.nodes:
        if node.output not in folded:
            homes |= {value: (len(result.items), port) for port, value in enumerate(node.outputs)}
            result.items.append(_item(node, numbers, [folded[v] for v in node.operands if v in folded]))
    for value in graph.outputs:
        result.items.append(_pill(last, str(value.type), "output"))
    reads: Iterator[tuple[int, int, Value]] = _reads(graph, result, folded)
    for target, port, value in reads:
        source, out = homes[value]
        result.edges.append(Edge(source, out, target, port))
        result.values.append(value)
    result.layout = place([item.box for item in result.items], result.edges)
    return result


def _reads(graph: Graph, result: Scene, folded: dict[Value, Node]) -> Iterator[tuple[int, int, Value]]:
    """Yield each read of a value: the number of the item, its port, and the value."""
    number = len(graph.inputs)
    for node in graph.nodes:
        if node.output in folded:
            continue
        seen = [value for value in node.operands if value not in folded]
        for port, value in enumerate(seen):
            yield number, port, value
        number += 1
    for value in graph.outputs:
        yield number, 0, value
        number += 1


def _foldable(graph: Graph, constant: Node) -> bool:
    """Whether a constant can be written on the cards that read it: no region reads it, and it is not a result."""
    readers = [node for node in graph.nodes if constant.output in node.operands]
    return constant.output not in graph.outputs and all(node.region is None for node in readers)


def _item(node: Node, numbers: dict[int, int], constants: list[Node]) -> Item:
    number = numbers[id(node)]
    if node.region is not None:
        return _frame(node, number, numbers)
    kind = family(node)
    if kind == "source":
        name = str(node.attrs["name"]) if node.op == "param" else node.op
        pill = _pill(name, str(node.output.type), kind)
        pill.node, pill.number, pill.box.sinks = node, number, True
        return pill
    shown = [f"{name} = {text}" for name, text in attributes(node)]
    shown += [f"{constant.attrs['value']}" for constant in constants]
    lines = [*_wrapped(shown), _short(_types(node))]
    width = max(len(node.op) * TITLE, *(len(line) * SMALL for line in lines)) + 2 * CARD_PAD
    box = Box(width, HEAD + LINE * len(lines) + 13)
    operands = [v for v in node.operands if v not in {c.output for c in constants}]
    box.ins, box.outs = _ports(len(operands), width), _ports(len(node.outputs), width)
    return Item("card", kind, node.op, lines, box, node, number, folds=tuple(numbers[id(c)] for c in constants))


def _frame(node: Node, number: int, numbers: dict[int, int]) -> Item:
    assert node.region is not None
    inside = scene(node.region, numbers, "yield")
    shown = [f"{name} = {text}" for name, text in attributes(node)]
    title = f"repeat {node.attrs['times']} times" if node.op == "repeat" else f"{node.op}  {', '.join(shown)}"
    width = max(inside.layout.width, len(title) * TITLE + 2 * CARD_PAD) + 2 * FRAME
    box = Box(width, inside.layout.height + FRAME_HEAD + FRAME_LOW)
    shift = (width - inside.layout.width) / 2
    ends = [shift + item.box.x + item.box.width / 2 for item in inside.items]
    count = len(node.region.inputs)
    box.ins = ends[:count] if count == len(node.operands) else _ports(len(node.operands), width)
    last = ends[-len(node.region.outputs) :]
    box.outs = last if len(last) == len(node.outputs) else _ports(len(node.outputs), width)
    return Item("frame", "loop", title, [_short(_types(node))], box, node, number, inside)


def _pill(title: str, text: str, kind: str) -> Item:
    title, text = _short(title), _short(text)
    width = max(len(title), len(text)) * SMALL + 2 * CARD_PAD
    return Item("pill", kind, title, [text], Box(width, 38.0, (width / 2,), (width / 2,)))


def _wrapped(shown: list[str]) -> list[str]:
    """Join attributes into at most MOST_LINES lines of at most LONGEST characters."""
    lines: list[str] = []
    for text in shown:
        if lines and len(lines[-1]) + len(text) + 2 <= LONGEST:
            lines[-1] += f", {text}"
        elif len(lines) == MOST_LINES:
            lines[-1] = f"{lines[-1][: LONGEST - 3]}, …"
            break
        else:
            lines.append(_short(text))
    return lines


def _types(node: Node) -> str:
    return ", ".join(str(value.type) for value in node.outputs)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _ports(count: int, width: float) -> tuple[float, ...]:
    """The ports of a card, spread evenly around its middle."""
    return tuple(width * (port + 1) / (count + 1) for port in range(count))
