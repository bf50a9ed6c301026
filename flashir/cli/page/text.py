"""IR text as coloured HTML. Every line refers to its node."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from flashir.ir import Graph, dumps

_TOKEN = re.compile(
    r'(?P<comment>//.*)|(?P<string>"(?:[^"\\]|\\.)*")|(?P<value>%[\w.]+)|(?P<symbol>@[\w.]+)'
    r"|(?P<type>\b(?:f64|f32|f16|bf16|i64|i32|bool)\b(?:\[[^\]]*\])?)|(?P<word>\b(?:model|return|yield)\b)"
    r"|(?P<op>\b[a-z_]\w*(?=\())|(?P<auto>\bauto\b)|(?P<number>(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?\b)"
)


def html_lines(graph: Graph, numbers: dict[int, int]) -> str:
    """The text of a graph. `numbers` has the number of each node by its `id`."""
    lines = dumps(graph, types=True).splitlines()
    owners = [None, *_owners(graph, numbers), None, None]
    return "".join(_line(line, owner) for line, owner in zip(lines, owners, strict=True))


def _owners(graph: Graph, numbers: dict[int, int]) -> Iterator[int | None]:
    """Yield the number of the node of each line of the body, in printing order."""
    for node in graph.nodes:
        yield numbers[id(node)]
        if node.region is not None:
            yield from _owners(node.region, numbers)
            yield numbers[id(node)]
            yield numbers[id(node)]


def _line(line: str, owner: int | None) -> str:
    number = "" if owner is None else f' data-node="{owner}"'
    return f'<div class="line"{number}>{"".join(_coloured(line)) or "&nbsp;"}</div>'


def _coloured(line: str) -> Iterator[str]:
    end = 0
    for token in _TOKEN.finditer(line):
        yield escape(line[end : token.start()])
        yield f'<i class="{token.lastgroup}">{escape(token.group())}</i>'
        end = token.end()
    yield escape(line[end:])
