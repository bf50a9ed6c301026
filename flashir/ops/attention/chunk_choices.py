"""The choices of chunked ops: the chunk size, the tile size, and the strategy of the cumulative sum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flashir.ir.choices import Choice
from flashir.ir.graph import AUTO, Attr, Node
from flashir.ir.op import OPS, AttrSpec, choice, integer
from flashir.ops.attention.documents import are_packed

STRATEGIES = ("scan", "matmul", "native")
_MASKS = ("segment_ids?", "visible?", "weights?")


def strategies(node: Node) -> tuple[Attr, ...]:
    """The strategies available for the cumulative sum of a node.

    None if the node sums nothing; only `matmul` if a mask or weights relate chunks. `native` running sums cannot reset
    the state between packed documents, nor decay it.
    """
    if node.attrs.get("use_global") is False:
        return ()
    present = {name: value.type for name, value in zip(OPS[node.op].operands, node.inputs) if value is not None}
    packed = "documents?" in present and are_packed(present["documents?"])
    if "lin_q?" in OPS[node.op].operands and "lin_q?" not in present:
        return ()
    if not node.attrs.get("causal", True):
        return ("matmul",) if packed else ()
    if not present.keys().isdisjoint(_MASKS) or node.attrs.get("summaries") == "attend":
        return ("matmul",)
    return ("scan", "matmul") if packed or "decay?" in present else STRATEGIES


def _tiles(node: Node) -> tuple[Attr, ...]:
    """All tiles, or only tile 1 if the strategy was set by hand: Table 10 sums over single tokens."""
    if not strategies(node) or node.attrs.get("chunk") is not None:
        return ()
    return TILES if node.attrs["cumsum"] is AUTO else (1,)


def _chunks_of_bias(params: Mapping[str, Any]) -> Iterator[int]:
    """The chunk sizes that fit short relative biases: 2n - 1 weights, where n is one chunk or two overlapping ones."""
    for name, array in params.items():
        if name.endswith("rel_bias.w") and len(getattr(array, "shape", ())) == 1:
            span = (len(array) + 1) // 2
            yield from (span, span // 2) if span > 1 else (span,)


TILES = (1, 16, 32, 64, 128, 256)
_CHUNK = Choice((64, 128, 256, 512, 1024), "chunk {}", changes_function=True, is_length=True, fitting=_chunks_of_bias)
_TILE = Choice(
    TILES,
    "tile {}",
    is_length=True,
    available=_tiles,
    forced="Tile 1, because a cumulative sum set by hand sums over tokens, as in Table 10; -s tile=N overrides it.",
)
_CUMSUM = Choice(STRATEGIES, "cumulative sum by {}", available=strategies, idle="native")

CUMSUM = choice(*STRATEGIES, default=AUTO, choice=_CUMSUM, doc="the strategy of the running sum of chunk states")
TILE = integer(
    AUTO,
    least=1,
    choice=_TILE,
    doc="tokens computed together, without changing the function; 1 if open while cumsum is set",
)


def chunk_size(doc: str) -> AttrSpec:
    """The attribute `chunk`: tokens per chunk."""
    return integer(AUTO, least=1, choice=_CHUNK, doc=doc)
