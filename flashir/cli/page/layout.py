"""Place boxes and route edges: layers by the longest path, order by barycentres, positions by least squares.

This is Sugiyama's scheme. An edge over several layers passes through a point in each of them, so that it bends around
boxes. Sweeps over the layers find an order with few crossings. Within a layer, an isotonic regression moves each box
as close to the centre of its neighbours as the order allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import networkx as nx

GAP_X, GAP_Y = 26.0, 44.0
SWEEPS = 12
POINT_WIDTH = 6.0
BOX_PULL, POINT_PULL = 1.0, 4.0  # points pull harder, so that long edges run straight

Point = tuple[float, float]


@dataclass
class Box:
    """A rectangle.

    Args:
        width, height: the size.
        ins, outs: the ports along the top and the bottom, as offsets from the left.
        sinks: whether the box goes as far down as possible, right above its reader.
        x, y: the top left corner, set by `place`.
    """

    width: float
    height: float
    ins: Sequence[float] = ()
    outs: Sequence[float] = ()
    sinks: bool = False
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Edge:
    """An edge from the port `out` of the box `source` to the port `into` of the box `target`, by number."""

    source: int
    out: int
    target: int
    into: int


@dataclass
class Layout:
    """The size of a layout, and the path of each edge: its points, two for each layer that it crosses."""

    width: float
    height: float
    paths: list[list[Point]]


@dataclass
class _Spot:
    """A slot in a layer, for a box or for a point of a long edge."""

    width: float
    box: int | None = None
    center: float = 0.0
    ups: list[tuple[_Spot, float]] = field(default_factory=list)
    downs: list[tuple[_Spot, float]] = field(default_factory=list)
    rank: float = 0.0


def place(boxes: Sequence[Box], edges: Sequence[Edge]) -> Layout:
    """Place the boxes and route the edges. An edge must lead to a box with a higher number."""
    layer_of = _layers(boxes, edges)
    layers: list[list[_Spot]] = [[] for _ in range(max(layer_of, default=-1) + 1)]
    spots = [_Spot(box.width, number) for number, box in enumerate(boxes)]
    for spot, depth in zip(spots, layer_of):
        layers[depth].append(spot)
    routes = [_route(edge, boxes, spots, layer_of, layers) for edge in edges]
    _order(layers)
    _center(layers)
    tops, y = [], 0.0
    for layer in layers:
        height = max((boxes[spot.box].height for spot in layer if spot.box is not None), default=0.0)
        tops.append((y, y + height))
        y += height + GAP_Y
    left = min((spot.center - spot.width / 2 for layer in layers for spot in layer), default=0.0)
    for number, spot in enumerate(spots):
        top, bottom = tops[layer_of[number]]
        boxes[number].x = spot.center - spot.width / 2 - left
        boxes[number].y = bottom - boxes[number].height if boxes[number].sinks else top
    paths = [_path(edge, route, boxes, layer_of, tops, left) for edge, route in zip(edges, routes)]
    right = max((spot.center + spot.width / 2 for layer in layers for spot in layer), default=0.0)
    return Layout(right - left, max(0.0, y - GAP_Y), paths)


def _layers(boxes: Sequence[Box], edges: Sequence[Edge]) -> list[int]:
    """The layer of each box, below all boxes that it reads.

    A box that sinks, or that reads only such boxes, goes right above its reader.
    """
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(len(boxes)))
    graph.add_edges_from((edge.source, edge.target) for edge in edges)
    layer = {number: depth for depth, level in enumerate(nx.topological_generations(graph)) for number in level}
    floats = {number for number, box in enumerate(boxes) if box.sinks}
    for number in nx.topological_sort(graph):
        before = list(graph.predecessors(number))
        if before and floats.issuperset(before):
            floats.add(number)
    for number in reversed(list(nx.topological_sort(graph))):
        after = [layer[reader] for reader in graph.successors(number)]
        if number in floats and after:
            layer[number] = max(0, min(after) - 1)
    return [layer[number] for number in range(len(boxes))]


def _route(
    edge: Edge, boxes: Sequence[Box], spots: list[_Spot], layer_of: list[int], layers: list[list[_Spot]]
) -> list[_Spot]:
    """Insert and link the points of an edge, one in each layer between its ends."""
    points = [_Spot(POINT_WIDTH) for _ in range(layer_of[edge.source] + 1, layer_of[edge.target])]
    for depth, point in enumerate(points, layer_of[edge.source] + 1):
        layers[depth].append(point)
    chain = [spots[edge.source], *points, spots[edge.target]]
    begin = boxes[edge.source].outs[edge.out] - boxes[edge.source].width / 2
    end = boxes[edge.target].ins[edge.into] - boxes[edge.target].width / 2
    for number, (upper, lower) in enumerate(pairwise(chain)):
        off_up, off_down = (begin if number == 0 else 0.0), (end if number == len(chain) - 2 else 0.0)
        upper.downs.append((lower, off_down - off_up))
        lower.ups.append((upper, off_up - off_down))
    return points


def _order(layers: list[list[_Spot]]) -> None:
    """Sort every layer so that few edges cross: by the mean rank of the neighbours, alternately down and up."""
    best, fewest = [list(layer) for layer in layers], None
    _rank(layers)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            for spot in layer:
                near = spot.ups if down else spot.downs
                if near:
                    spot.rank = sum(other.rank + offset * 1e-4 for other, offset in near) / len(near)
            layer.sort(key=lambda spot: spot.rank)
            _rank([layer])
        crossings = sum(_crossings(layer) for layer in layers)
        if fewest is None or crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    for layer, order in zip(layers, best):
        layer[:] = order
    _rank(layers)


def _rank(layers: Sequence[list[_Spot]]) -> None:
    """Number the spots of each layer from its middle, so that layers of different sizes compare."""
    for layer in layers:
        for number, spot in enumerate(layer):
            spot.rank = number - (len(layer) - 1) / 2


def _crossings(layer: Sequence[_Spot]) -> int:
    """Count the crossings of edges to the layer below, as inversions of their ends."""
    from bisect import bisect_right, insort

    seen: list[float] = []
    count = 0
    for spot in layer:
        ends = sorted(other.rank for other, _ in spot.downs)
        count += sum(len(seen) - bisect_right(seen, end) for end in ends)
        for end in ends:
            insort(seen, end)
    return count


def _center(layers: list[list[_Spot]]) -> None:
    """Move every spot as close to its neighbours as the order and the gaps allow."""
    for layer in layers:
        _spread(layer, [0.0] * len(layer))
    for sweep in range(2 * SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            wanted = []
            for spot in layer:
                near = (spot.ups if down else spot.downs) or (spot.ups + spot.downs)
                wanted.append(sum(o.center + offset for o, offset in near) / len(near) if near else spot.center)
            _spread(layer, wanted)


def _spread(layer: Sequence[_Spot], wanted: Sequence[float]) -> None:
    """Move spots to the positions nearest to those wanted, by least squares, without overlaps.

    Positions minus the accumulated distances must not decrease, so this is an isotonic regression. Neighbours that
    would overlap form a block, which goes to the average of the positions that its members want.
    """
    offsets = [0.0]
    for left, right in pairwise(layer):
        gap = GAP_X if left.box is not None and right.box is not None else GAP_X / 2
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + gap)
    blocks: list[tuple[float, float, int]] = []  # mean, weight, members
    for spot, aim, offset in zip(layer, wanted, offsets):
        pull = BOX_PULL if spot.box is not None else POINT_PULL
        blocks.append((aim - offset, pull, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (m1, w1, n1), (m2, w2, n2) = blocks[-2:]
            blocks[-2:] = [((m1 * w1 + m2 * w2) / (w1 + w2), w1 + w2, n1 + n2)]
    means = [mean for mean, _, members in blocks for _ in range(members)]
    for spot, mean, offset in zip(layer, means, offsets):
        spot.center = mean + offset


def _path(
    edge: Edge,
    route: Sequence[_Spot],
    boxes: Sequence[Box],
    layer_of: Sequence[int],
    tops: Sequence[tuple[float, float]],
    left: float,
) -> list[Point]:
    source, target = boxes[edge.source], boxes[edge.target]
    begin = source.x + source.outs[edge.out]
    first = layer_of[edge.source]
    path = [(begin, source.y + source.height), (begin, tops[first][1])]
    for depth, point in enumerate(route, first + 1):
        x = point.center - left
        path += [(x, tops[depth][0]), (x, tops[depth][1])]
    end = target.x + target.ins[edge.into]
    return [*path, (end, tops[layer_of[edge.target]][0]), (end, target.y)]
