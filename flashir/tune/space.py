"""The space of choices: every (chunk, cumsum) that a model leaves open and its parameters allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flashir.ir import Graph
from flashir.ir.naming import parameters
from flashir.passes.choose import ChooseChunk, ChooseCumsum, choosers, is_open, strategies

CHUNKS = (64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Choice:
    """A chunk and a strategy; None where the model has none."""

    chunk: int | None
    cumsum: str | None

    def settle(self, graph: Graph) -> Graph:
        """The graph with this choice in place of every `auto`."""
        return ChooseCumsum(self.cumsum).apply(ChooseChunk(self.chunk).apply(graph))


def choices(graph: Graph, seq_len: int, params: Mapping[str, Any] | None = None) -> tuple[Choice, ...]:
    """Every choice for a model, in the order of chunks.

    Args:
        graph: the model; what it has settled stays as it is.
        seq_len: chunks above it are left out, but for the first that holds it whole.
        params: where they exist, only chunks that fit their shapes.
    """
    return tuple(Choice(chunk, cumsum) for chunk in _chunks(graph, seq_len, params) for cumsum in _cumsums(graph))


def _chunks(graph: Graph, seq_len: int, params: Mapping[str, Any] | None) -> list[int | None]:
    given = [node.attrs["chunk"] for node in choosers(graph) if "chunk" in node.attrs]
    if not any(is_open(node, "chunk") for node in choosers(graph)):
        return [next((chunk for chunk in given if isinstance(chunk, int)), None)]
    if params is None:
        whole = min((chunk for chunk in CHUNKS if chunk >= seq_len), default=CHUNKS[-1])
        return [chunk for chunk in CHUNKS if chunk <= whole]
    spans = sorted({*CHUNKS, *_spans(params)})
    return [chunk for chunk in spans if _fits(ChooseChunk(chunk).apply(graph), params)]


def _spans(params: Mapping[str, Any]) -> Iterator[int]:
    """The chunks that short relative biases may be made for: [2n - 1] weights, n one chunk, or two that overlap."""
    for name, array in params.items():
        if name.endswith("rel_bias.w") and len(array.shape) == 1:
            span = (len(array) + 1) // 2
            yield from (span, span // 2) if span > 1 else (span,)


def misfits(graph: Graph, params: Mapping[str, Any]) -> list[str]:
    """The relative biases that were made for another chunk than the graph has settled on, each with both shapes."""
    specs = parameters(graph)
    return [
        f"{name} has shape {params[name].shape}, with this chunk it would be {spec.shape}"
        for name, spec in specs.items()
        if "rel_bias" in name and name in params and params[name].shape != spec.shape
    ]


def _fits(graph: Graph, params: Mapping[str, Any]) -> bool:
    specs = parameters(graph)
    return all(name in specs for name in params if "rel_bias" in name) and all(
        name in params and specs[name].shape == params[name].shape for name in specs if "rel_bias" in name
    )


def _cumsums(graph: Graph) -> tuple[str | None, ...]:
    nodes = [node for node in choosers(graph) if strategies(node)]
    if not nodes:
        return (None,)
    if not any(is_open(node, "cumsum") for node in nodes):
        return (str(nodes[0].attrs["cumsum"]),)
    return max((strategies(node) for node in nodes), key=len)
