"""The space of choices: every (chunk, tile, cumsum) that a model leaves open and its parameters allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from flashir.ir import Graph
from flashir.ir.naming import parameters
from flashir.passes.choose import (
    Candidate,
    ChooseChunk,
    ChooseCumsum,
    ChooseTile,
    choosers,
    is_open,
    strategies,
    sums_tokens,
)

if TYPE_CHECKING:
    from flashir.planning import Plan

CHUNKS = (64, 128, 256, 512, 1024)
TILES = (1, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Choice:
    """A chunk, a strategy and a tile; None where the model has none."""

    chunk: int | None
    cumsum: str | None
    tile: int | None = None

    @staticmethod
    def of(made: Candidate | Plan) -> Choice:
        """The choice of a candidate or a plan."""
        return Choice(made.chunk, made.cumsum, made.tile)

    def settle(self, graph: Graph) -> Graph:
        """The graph with this choice in place of every `auto`."""
        for each in (ChooseChunk(self.chunk), ChooseTile(self.tile), ChooseCumsum(self.cumsum)):
            graph = each.apply(graph)
        return graph


def choices(graph: Graph, seq_len: int, params: Mapping[str, Any] | None = None) -> tuple[Choice, ...]:
    """Every choice for a model, in the order of chunks, then of tiles.

    Args:
        graph: the model; what it has settled stays as it is.
        seq_len: chunks and tiles above it are left out, but for the first that holds it whole.
        params: where they exist, only chunks that fit their shapes.
    """
    every = product(_chunks(graph, seq_len, params), _tiles(graph, seq_len), _cumsums(graph))
    return tuple(Choice(chunk, cumsum, tile) for chunk, tile, cumsum in every)


def _up_to(length: int, sizes: Sequence[int]) -> list[int | None]:
    """The sizes up to the first that holds a length."""
    whole = next((size for size in sizes if size >= length), sizes[-1])
    return [size for size in sizes if size <= whole]


def _chunks(graph: Graph, seq_len: int, params: Mapping[str, Any] | None) -> list[int | None]:
    given = [node.attrs["chunk"] for node in choosers(graph) if "chunk" in node.attrs]
    if not any(is_open(node, "chunk") for node in choosers(graph)):
        return [next((chunk for chunk in given if isinstance(chunk, int)), None)]
    if params is None:
        return _up_to(seq_len, CHUNKS)
    spans = sorted({*CHUNKS, *_spans(params)})
    return [chunk for chunk in spans if _fits(ChooseChunk(chunk).apply(graph), params)]


def _tiles(graph: Graph, seq_len: int) -> list[int | None]:
    nodes = [node for node in choosers(graph) if "tile" in node.attrs and strategies(node)]
    if any(is_open(node, "tile") and not sums_tokens(node) for node in nodes):
        return _up_to(seq_len, TILES)
    given = [1 if sums_tokens(node) else node.attrs["tile"] for node in nodes]
    return [next((tile for tile in given if isinstance(tile, int)), None)]


def _spans(params: Mapping[str, Any]) -> Iterator[int]:
    """The chunks that short relative biases may be made for: [2n - 1] weights, n one chunk, or two that overlap."""
    for name, array in params.items():
        if name.endswith("rel_bias.w") and len(_shape(array)) == 1:
            span = (len(array) + 1) // 2
            yield from (span, span // 2) if span > 1 else (span,)


def misfits(graph: Graph, params: Mapping[str, Any]) -> list[str]:
    """The relative biases that were made for another chunk than the graph has settled on, each with both shapes."""
    specs = parameters(graph)
    return [
        f"{name} has shape {_shape(params[name])}, with this chunk it would be {spec.shape}"
        for name, spec in specs.items()
        if "rel_bias" in name and name in params and _shape(params[name]) != spec.shape
    ]


def _fits(graph: Graph, params: Mapping[str, Any]) -> bool:
    specs = parameters(graph)
    return all(name in specs for name in params if "rel_bias" in name) and all(
        name in params and specs[name].shape == _shape(params[name]) for name in specs if "rel_bias" in name
    )


def _shape(array: Any) -> tuple[int, ...]:
    """Of an array; no axes where it is none, which is told when parameters are checked."""
    return tuple(getattr(array, "shape", ()))


def _cumsums(graph: Graph) -> tuple[str | None, ...]:
    nodes = [node for node in choosers(graph) if strategies(node)]
    if not nodes:
        return (None,)
    if not any(is_open(node, "cumsum") for node in nodes):
        return (str(nodes[0].attrs["cumsum"]),)
    return max((strategies(node) for node in nodes), key=len)
