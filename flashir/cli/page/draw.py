"""Draw a scene as SVG. Texts come from a model file, so every text is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise

from flashir.cli.page.layout import Point
from flashir.cli.page.scene import CARD_PAD, FRAME, FRAME_HEAD, HEAD, LINE, Item, Scene
from flashir.ir import Value

ROUND = 9


class Drawing:
    """Draws the scenes of one stage. `shares` has the share of the total time of each node, from 0 to 1."""

    def __init__(self, shares: dict[int, float]) -> None:
        self.shares = shares

    def scene(self, scene: Scene, x: float = 0.0, y: float = 0.0) -> Iterator[str]:
        """Draw frames, then edges, then cards, so that edges run over frames and under cards."""
        for item in scene.items:
            if item.inside is not None:
                yield from self._frame(item, x, y)
        for edge, path, value in zip(scene.edges, scene.layout.paths, scene.values):
            yield _edge(path, value, scene.items[edge.source], scene.items[edge.target], x, y)
        for item in scene.items:
            if item.inside is None:
                yield self._card(item, x, y)

    def _frame(self, item: Item, x: float, y: float) -> Iterator[str]:
        assert item.inside is not None and item.node is not None
        box = item.box
        left, top = x + box.x, y + box.y
        shift = (box.width - item.inside.layout.width) / 2
        yield (
            f'<g class="frame" data-node="{item.number}" {_named(item)}>'
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{box.width:.1f}" '
            f'height="{box.height:.1f}" rx="16"/><text class="title" x="{left + FRAME:.1f}" y="{top + 25:.1f}">'
            f'{escape(item.title)}</text><text class="small" x="{left + FRAME:.1f}" y="{top + 41:.1f}">'
            f"{escape(item.lines[0])}</text></g>"
        )
        below = top + FRAME_HEAD
        for into, inner in zip(box.ins, item.inside.items):
            yield _straight(left + into, top, below + inner.box.y)
        for out, inner in zip(reversed(box.outs), reversed(item.inside.items)):
            yield _straight(left + out, below + inner.box.y + inner.box.height, top + box.height)
        yield from self.scene(item.inside, left + shift, below)

    def _card(self, item: Item, x: float, y: float) -> str:
        box = item.box
        left, top = x + box.x, y + box.y
        number = "" if item.number is None else f' data-node="{item.number}" {_named(item)}'
        number += f' data-folds="{" ".join(map(str, item.folds))}"' if item.folds else ""
        parts = [f'<g class="{item.kind} {item.family}"{number} transform="translate({left:.1f} {top:.1f})">']
        radius = box.height / 2 if item.kind == "pill" else ROUND
        parts.append(f'<rect width="{box.width:.1f}" height="{box.height:.1f}" rx="{radius:.1f}"/>')
        if item.kind == "card":
            parts += self._card_text(item)
        else:
            middle = f'x="{box.width / 2:.1f}" text-anchor="middle"'
            parts.append(f'<text class="name" {middle} y="16">{escape(item.title)}</text>')
            parts.append(f'<text class="small" {middle} y="29">{escape(item.lines[0])}</text>')
        return "".join([*parts, "</g>"])

    def _card_text(self, item: Item) -> Iterator[str]:
        box = item.box
        yield f'<path class="stripe" d="M0 {ROUND}a{ROUND} {ROUND} 0 0 1 {ROUND} -{ROUND}h-3v{box.height:.1f}h3'
        yield f'a{ROUND} {ROUND} 0 0 1 -{ROUND} -{ROUND}z"/>'
        yield f'<text class="title" x="{CARD_PAD}" y="{HEAD}">{escape(item.title)}</text>'
        for place, line in enumerate(item.lines):
            kind = "small" if place == len(item.lines) - 1 else "attrs"
            yield f'<text class="{kind}" x="{CARD_PAD}" y="{HEAD + LINE * (place + 1):.1f}">{escape(line)}</text>'
        share = self.shares.get(item.number, 0.0) if item.number is not None else 0.0
        if share >= 0.002:
            width = max(2.0, (box.width - 2 * CARD_PAD) * share)
            bar = f'x="{CARD_PAD}" y="{box.height - 6:.1f}" width="{width:.1f}" height="2.5"'
            yield f'<rect class="heat" {bar} rx="1.2"/>'


def _named(item: Item) -> str:
    """The attributes of an item that can be pinned, by keyboard too, with its texts as its name."""
    return f'tabindex="0" role="button" aria-label="{escape(", ".join([item.title, *item.lines]))}"'


def _straight(x: float, top: float, bottom: float) -> str:
    """A line from the border of a frame to an item inside."""
    return f'<path class="edge" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>'


def _edge(path: Sequence[Point], value: Value, source: Item, target: Item, x: float, y: float) -> str:
    """A smooth line that is curved between layers and straight through them."""
    points = [(px + x, py + y) for px, py in path]
    path_data = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for place, (start, end) in enumerate(pairwise(points)):
        if place % 2 == 0 or abs(start[0] - end[0]) < 0.5:
            path_data += f"L{end[0]:.1f} {end[1]:.1f}"
        else:
            bend = (end[1] - start[1]) * 0.55
            path_data += (
                f"C{start[0]:.1f} {start[1] + bend:.1f} {end[0]:.1f} {end[1] - bend:.1f} {end[0]:.1f} {end[1]:.1f}"
            )
    ends = "".join(
        f' data-{n}="{item.number}"' for n, item in (("from", source), ("to", target)) if item.number is not None
    )
    light = " light" if source.family == "source" else ""
    return f'<path class="edge{light}" d="{path_data}"{ends}><title>{escape(f"{value}: {value.type}")}</title></path>'
