"""The page is one well-formed file that needs no network, and a model's names cannot break out of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import flashir
from flashir.cli.page import Stage, page
from flashir.cli.page.layout import Box, Edge, place
from flashir.ir import Graph
from flashir.machine.targets import target
from tests.cli.conftest import TINY, Cli

VOID = {"meta", "input", "br", "link"}
HOSTILE = '</script><img src="x" onerror="alert(1)">&\'"'


class Checker(HTMLParser):
    """Checks that every element is closed in turn; keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag


def checked(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return checker


def test_the_page_is_whole_and_needs_no_network(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    made = cli.json("show", *TINY, "--html", out)
    assert made["bytes"] == out.stat().st_size
    text = out.read_text(encoding="utf-8")
    seen = checked(text).seen
    assert not re.search(r"(https?:)?//[a-z]", text.replace("// ", ""))
    assert not [attrs for _, attrs in seen if {"src", "href"} & set(attrs)]
    stages = [attrs["data-stage"] for tag, attrs in seen if tag == "section"]
    assert stages == ["blocks", "attention", "primitives", "lowered"]
    data = json.loads(text.partition('type="application/json">')[2].partition("</script>")[0])
    for stage in stages:
        numbers = {int(attrs["data-node"] or 0) for tag, attrs in seen if tag == "div" and "data-node" in attrs}
        assert data[stage] and numbers >= set(range(len(data[stage])))
    assert "--force" in cli.fails("show", *TINY, "--html", out)


def test_the_page_of_an_open_model_has_costs(cli: Cli, tmp_path: Path) -> None:
    cli.ok("show", *TINY, "--html", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    data = json.loads(text.partition('type="application/json">')[2].partition("</script>")[0])
    flash = next(node for node in data["blocks"] if node["op"] == "flash")
    assert flash["cost"]["ms"] > 0 and flash["times"] == 2 and 0 < flash["share"] <= 1
    assert ["chunk", "auto"] in flash["attributes"]


def test_hostile_names_are_escaped() -> None:
    graph = _renamed(flashir.model("flash", size="tiny", chunk=64, cumsum="scan"))
    text = page(HOSTILE, {"name": HOSTILE}, [Stage("blocks", HOSTILE, HOSTILE, graph, graph)], target("onnx:cpu"),
                {"B": 1, "T": 64})  # fmt: skip
    seen = checked(text).seen
    assert "img" not in {tag for tag, _ in seen}
    assert not [attrs for _, attrs in seen if any(name.startswith("on") for name in attrs)]
    assert text.count("</script>") == 2


def _renamed(graph: Graph) -> Graph:
    """The graph, every value of its body under a name that no parser would take."""
    nodes = [
        replace(node, outputs=tuple(replace(value, name=value.name + HOSTILE) for value in node.outputs))
        for node in graph.nodes
    ]
    made = {old: new for one, other in zip(graph.nodes, nodes) for old, new in zip(one.outputs, other.outputs)}
    nodes = [replace(node, inputs=tuple(made.get(v, v) if v else v for v in node.inputs)) for node in nodes]
    return replace(graph, nodes=tuple(nodes), outputs=tuple(made[value] for value in graph.outputs))


@pytest.mark.parametrize("seed", range(8))
def test_boxes_of_any_graph_do_not_overlap(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 40))
    boxes = [
        Box(*map(float, random.uniform(20, 200, 2)), ins=(10.0,), outs=(10.0,), sinks=bool(random.integers(2)))
        for _ in range(count)
    ]
    pairs = {tuple(sorted(map(int, random.integers(0, count, 2)))) for _ in range(2 * count)}
    edges = [Edge(source, 0, sink, 0) for source, sink in sorted(pairs) if source != sink]
    made = place(boxes, edges)
    for number, one in enumerate(boxes):
        assert one.x >= -1e-6 and one.x + one.width <= made.width + 1e-6 and one.y + one.height <= made.height + 1e-6
        for other in boxes[number + 1 :]:
            beside = one.x + one.width < other.x or other.x + other.width < one.x
            assert beside or one.y + one.height < other.y or other.y + other.height < one.y
    for edge, path in zip(edges, made.paths, strict=True):
        assert boxes[edge.source].y + boxes[edge.source].height < boxes[edge.target].y
        assert all(above[1] <= below[1] + 1e-6 for above, below in pairwise(path))
