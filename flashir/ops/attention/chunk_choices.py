"""The choices of ops that work chunk by chunk: the chunk, the tile, and the strategy of the cumulative sum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flashir.ir.choices import Choice
from flashir.ir.graph import AUTO
from flashir.ir.op import OPS, AttrSpec, choice, integer
from flashir.ops.attention.documents import are_packed

if TYPE_CHECKING:
    from flashir.ir.graph import Attr, Node

STRATEGIES = ("scan", "matmul", "native")
_MASKS = ("segment_ids?", "visible?", "weights?")


def strategies(node: Node) -> tuple[Attr, ...]:
    """The ways in which a node can sum up its chunk states.

    None where it sums nothing up, `matmul` alone where a mask or weights say which chunks see each other. A state of
    packed documents begins anew with each, and one with a decay fades, which running sums, `native`, cannot do.
    """
    if node.attrs.get("use_global") is False:
        return ()
    given = {name: value.type for name, value in zip(OPS[node.op].operands, node.inputs) if value is not None}
    packed = "documents?" in given and are_packed(given["documents?"])
    if "lin_q?" in OPS[node.op].operands and "lin_q?" not in given:
        return ()
    if not node.attrs.get("causal", True):
        return ("matmul",) if packed else ()
    if not given.keys().isdisjoint(_MASKS) or node.attrs.get("summaries") == "attend":
        return ("matmul",)
    return ("scan", "matmul") if packed or "decay?" in given else STRATEGIES


def _tiles(node: Node) -> tuple[Attr, ...]:
    """One token beside a strategy that was set, for that is a sum over tokens (Table 10)."""
    if not strategies(node) or node.attrs.get("chunk") is not None:
        return ()
    return TILES if node.attrs["cumsum"] is AUTO else (1,)


def _chunks_of_bias(params: Mapping[str, Any]) -> Iterator[int]:
    """The chunks that short relative biases may be made for: [2n - 1] weights, n one chunk, or two that overlap."""
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
    forced="Tile 1, for a cumulative sum set by hand is one over tokens, as in Table 10; -s tile=N sets another.",
)
_CUMSUM = Choice(STRATEGIES, "cumulative sum by {}", available=strategies, idle="native")

CUMSUM = choice(*STRATEGIES, default=AUTO, choice=_CUMSUM, doc="how chunk states are summed up")
TILE = integer(
    AUTO,
    least=1,
    choice=_TILE,
    doc="tokens computed together, the function is the same; open beside a set cumsum it is 1",
)


def chunk_size(doc: str) -> AttrSpec:
    """The attribute `chunk`: tokens a chunk."""
    return integer(AUTO, least=1, choice=_CHUNK, doc=doc)
