"""The page of `flashir show --html`: one file that shows a graph at every level and needs no network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from flashir.cli.page.draw import Drawing
from flashir.cli.page.facts import facts
from flashir.cli.page.scene import scene
from flashir.cli.page.text import html_lines
from flashir.cost import Target
from flashir.ir import Graph, Node
from flashir.version import __version__

HERE = Path(__file__).parent
MARGIN = 30

FAMILIES = {
    "block": "block",
    "attention": "attention",
    "contraction": "product",
    "elementwise": "elementwise",
    "norm": "norm, sum",
    "position": "position",
    "prefix": "prefix sum",
    "shape": "shape",
    "source": "parameter, constant",
    "loop": "loop",
}


@dataclass(frozen=True)
class Stage:
    """A tab of the page.

    Args:
        key: the identifier of the tab.
        title, about: the title, and a sentence about the graph.
        graph: the graph.
        settled: the same graph with every choice settled.
    """

    key: str
    title: str
    about: str
    graph: Graph
    settled: Graph


def page(
    title: str, summary: Mapping[str, str], stages: Sequence[Stage], target: Target, sizes: Mapping[str, int]
) -> str:
    """The page as HTML.

    Args:
        title: MODEL as typed.
        summary: facts about the model, shown at the top.
        stages: the tabs, at least one.
        target: the target that costs are shown for.
        sizes: the value of each symbolic size, for costs.
    """
    tabs, sections, data = [], [], {}
    for stage in stages:
        numbers, node_facts = _numbered(stage, sizes, target)
        data[stage.key] = node_facts
        tabs.append(
            f'<button class="tab" role="tab" id="tab-{escape(stage.key)}" aria-controls="stage-{escape(stage.key)}" '
            f'aria-selected="false" data-stage="{escape(stage.key)}" title="{escape(stage.about)}">'
            f'{escape(stage.title)}<small>{len(node_facts)}<span class="unseen"> nodes</span></small></button>'
        )
        sections.append(_section(stage, numbers, node_facts))
    chips = "".join(f"<span><b>{escape(name)}</b> {escape(value)}</span>" for name, value in summary.items())
    legend = "".join(
        f'<button class="{name}" aria-pressed="false" data-family="{name}">{label}</button>'
        for name, label in FAMILIES.items()
    )
    template = Template((HERE / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        version=escape(__version__),
        style=theme() + (HERE / "page.css").read_text(encoding="utf-8"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
        chips=chips,
        tabs="".join(tabs),
        legend=legend,
        sections="".join(sections),
        data=json.dumps(data, ensure_ascii=True).replace("<", "\\u003c").replace("&", "\\u0026"),
    )


def theme() -> str:
    """The style sheet that all pages share: named colours, light and dark."""
    return (HERE / "theme.css").read_text(encoding="utf-8")


def _section(stage: Stage, numbers: dict[int, int], node_facts: Sequence[dict[str, Any]]) -> str:
    """The HTML of a stage: its drawing and its text."""
    laid_out = scene(stage.graph, numbers)
    times = [(fact["cost"] or {}).get("ms", 0.0) for fact in node_facts]
    total = sum(ms for ms, fact in zip(times, node_facts) if not fact["loop"]) or 1.0
    shares = {number: ms / total for number, ms in enumerate(times)}
    for number, fact in enumerate(node_facts):
        fact["share"] = shares[number]
    largest = max((share for number, share in shares.items() if not node_facts[number]["loop"]), default=1.0) or 1.0
    drawing = "".join(Drawing({number: share / largest for number, share in shares.items()}).scene(laid_out))
    width, height = laid_out.layout.width + 2 * MARGIN, laid_out.layout.height + 2 * MARGIN
    return (
        f'<section role="tabpanel" id="stage-{escape(stage.key)}" aria-labelledby="tab-{escape(stage.key)}" '
        f'data-stage="{escape(stage.key)}" hidden>'
        f'<div class="canvas"><svg data-width="{width:.0f}" data-height="{height:.0f}" role="group" '
        f'aria-label="the graph of {escape(stage.title)}"><g class="world"><g transform="translate({MARGIN} {MARGIN})">'
        f'{drawing}</g></g></svg></div><aside class="text" aria-label="the text of {escape(stage.title)}">'
        f'<p>{escape(stage.about)}</p><div class="code" role="region" aria-label="IR text" tabindex="0">'
        f"{html_lines(stage.graph, numbers)}</div></aside></section>"
    )


def _numbered(stage: Stage, sizes: Mapping[str, int], target: Target) -> tuple[dict[int, int], list[dict[str, Any]]]:
    """The number of each node by its `id`, and the facts of the nodes in the order of the numbers."""
    numbers: dict[int, int] = {}
    node_facts: list[dict[str, Any]] = []
    for (node, times), settled in zip(_walk(stage.graph, 1), stage.settled.walk(), strict=True):
        numbers[id(node)] = len(node_facts)
        node_facts.append({**facts(node, settled, sizes, target, times), "loop": node.region is not None})
    return numbers, node_facts


def _walk(graph: Graph, times: int) -> Iterator[tuple[Node, int]]:
    """Yield every node and how often it runs: a node in `repeat` runs once per round."""
    for node in graph.nodes:
        yield node, times
        if node.region is not None:
            rounds = node.attrs["times"] if node.op == "repeat" else 1
            yield from _walk(node.region, times * (rounds if isinstance(rounds, int) else 1))
