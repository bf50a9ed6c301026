"""choose-chunk, choose-tile, choose-cumsum: settle what a model leaves `auto`, by hand or by a ranking of candidates.

In this order: whether a cumulative sum was set by hand tells which tile is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flashir.errors import SettingError
from flashir.ir.builder import Builder
from flashir.ir.graph import AUTO, Attr, Graph, Node, Value
from flashir.ops import OPS
from flashir.ops.documents import are_packed
from flashir.passes.base import Pass
from flashir.rewrite import Rule, rewrite

CHOICES = ("chunk", "tile", "cumsum")
STRATEGIES = ("scan", "matmul", "native")
POLICIES = ("quality", "fastest")
QUALITY_SLACK = 1.05  # the largest chunk may take this much longer than the fastest


@dataclass(frozen=True)
class Candidate:
    """One way to settle a model, and what it takes.

    Args:
        chunk: tokens a chunk; None where the model has none.
        cumsum: `scan`, `matmul` or `native`; None where nothing is summed up.
        predicted_ms: milliseconds by the cost model.
        peak_bytes: bytes of memory on one device, by the cost model.
        tile: tokens of token-level linear attention that are computed together; None where the model has none.
        measured_ms: milliseconds as measured, where they were.
        spread_ms, runs: of that measurement: the range of the middle half of the runs, and how many there were.
        correction: what the prediction is multiplied by where it competes with measurements of others.
        near: tokens a row of its own measurement that the correction comes from, where that was at another length.
        terms: the predicted milliseconds of each kind.
    """

    chunk: int | None
    cumsum: str | None
    predicted_ms: float
    peak_bytes: int
    tile: int | None = None
    measured_ms: float | None = None
    spread_ms: float | None = None
    runs: int | None = None
    correction: float = 1.0
    near: int | None = None
    terms: Mapping[str, float] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ms(self) -> float:
        """What is known best: as measured, else as predicted and corrected."""
        return self.predicted_ms * self.correction if self.measured_ms is None else self.measured_ms


Rank = Callable[[Graph], Sequence[Candidate]]


class _Choose(Pass):
    """An open attribute gets what was set by hand, else what the best candidate has; its name follows `choose-`."""

    optional = False
    policy: str
    rank: Rank | None

    def apply(self, graph: Graph) -> Graph:
        """Set every open one. Raises SettingError where there is a choice, but neither a value nor a ranking."""
        attr = self.name.removeprefix("choose-")
        nodes = [node for node in graph.walk() if is_open(node, attr)]
        if not nodes:
            return graph
        value: Attr = getattr(self, attr)
        if value is None and any(self.bound(node) is None for node in nodes):
            value = getattr(best(ranked(self, self.rank, graph), self.policy), attr)

        def chosen(node: Node) -> Attr:
            only = self.bound(node)
            return value if only is None else only

        return rewrite(graph, _setter(attr, chosen, lambda node: is_open(node, attr)))

    def bound(self, node: Node) -> Attr:
        """What an open node can only have, or may as well have where it makes no difference; None for a choice."""
        return None


@dataclass(frozen=True)
class ChooseChunk(_Choose):
    """`flash(%h) {chunk = auto}` -> `flash(%h) {chunk = 256}`

    Args:
        chunk: the chunk, set by hand; without one, the best that `rank` finds.
        policy: `quality`, the largest chunk within 5% of the fastest (§4.3 finds larger ones better); or `fastest`.
        rank: lists the candidates for a graph.
    """

    name = "choose-chunk"
    chunk: int | None = None
    policy: str = "quality"
    rank: Rank | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ChooseTile(_Choose):
    """`performer(%h) {cumsum = auto, tile = auto}` -> `performer(%h) {cumsum = auto, tile = 64}`

    `performer(%h) {cumsum = "scan", tile = auto}` -> `performer(%h) {cumsum = "scan", tile = 1}`

    Args:
        tile: the tile, set by hand; without one, that of the best that `rank` finds.
        policy: as for choose-chunk.
        rank: lists the candidates for a graph.
    """

    name = "choose-tile"
    tile: int | None = None
    policy: str = "quality"
    rank: Rank | None = field(default=None, repr=False)

    def bound(self, node: Node) -> Attr:
        """One token, where the sum is meant over tokens or there is none."""
        return 1 if sums_tokens(node) or not strategies(node) else None


@dataclass(frozen=True)
class ChooseCumsum(_Choose):
    """`flash(%h) {cumsum = auto}` -> `flash(%h) {cumsum = "native"}`

    Args:
        cumsum: `scan`, `matmul` or `native`, set by hand; without one, that of the best that `rank` finds.
        policy: as for choose-chunk.
        rank: lists the candidates for a graph.
    """

    name = "choose-cumsum"
    cumsum: str | None = None
    policy: str = "quality"
    rank: Rank | None = field(default=None, repr=False)

    def bound(self, node: Node) -> Attr:
        """The one strategy there is; any where nothing is summed up."""
        own = strategies(node)
        if self.cumsum is not None and len(own) > 1 and self.cumsum not in own:
            raise SettingError(
                f"cumsum must be {' or '.join(own)} where documents in a row are kept apart, got {self.cumsum!r}",
                where=node.op,
            )
        return None if len(own) > 1 else (own or STRATEGIES)[-1]


def best(candidates: Sequence[Candidate], policy: str) -> Candidate:
    """The candidate that the policy prefers. Raises SettingError for an unknown policy."""
    check_policy(policy)
    fastest = min(candidates, key=lambda candidate: candidate.ms)
    if policy == "fastest":
        return fastest
    close = [each for each in candidates if each.ms <= QUALITY_SLACK * fastest.ms]
    largest = max(each.chunk or 0 for each in close)
    return min((each for each in close if (each.chunk or 0) == largest), key=lambda candidate: candidate.ms)


def check_policy(policy: str) -> None:
    """Raises SettingError for an unknown policy."""
    if policy not in POLICIES:
        raise SettingError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")


def ranked(choice: Pass, rank: Rank | None, graph: Graph) -> Sequence[Candidate]:
    """The candidates for a graph. Raises SettingError where nothing can rank them."""
    if rank is None:
        option = choice.name.removeprefix("choose-")
        raise SettingError(f"{choice.name} needs a target to choose for", mend=f"or set {option} by hand")
    return rank(graph)


def strategies(node: Node) -> tuple[str, ...]:
    """The ways in which a node could sum up its chunk states; none where it does not, one where segments force it.

    A state of packed documents begins anew with each, which differences of running sums, `native`, cannot do.
    """
    if "cumsum" not in node.attrs or node.attrs.get("use_global") is False:
        return ()
    told = {name: value.type for name, value in zip(OPS[node.op].operands, node.inputs) if value is not None}
    packed = "documents?" in told and are_packed(told["documents?"])
    causal = node.attrs.get("causal", True)
    if not causal:
        return ("matmul",) if packed else ()
    if not told.keys().isdisjoint(("segment_ids?", "visible?", "weights?")) or node.attrs.get("summaries") == "attend":
        return ("matmul",)
    return ("scan", "matmul") if packed else STRATEGIES


def sums_tokens(node: Node) -> bool:
    """Whether a cumulative sum set by hand, and no tile, means the sum over tokens, as in Table 10."""
    return is_open(node, "tile") and not is_open(node, "cumsum") and bool(strategies(node))


def is_open(node: Node, attr: str) -> bool:
    """Whether an attribute of the node is still `auto`."""
    return node.attrs.get(attr) is AUTO


def choosers(graph: Graph) -> Iterator[Node]:
    """The nodes that have something to choose, open or not."""
    return (node for node in graph.walk() if not node.attrs.keys().isdisjoint(CHOICES))


def settled_chunks(graph: Graph) -> tuple[int, ...]:
    """The chunks that stand in a graph, each once, the smallest first."""
    chunks = (node.attrs.get("chunk") for node in choosers(graph))
    return tuple(sorted({chunk for chunk in chunks if isinstance(chunk, int)}))


def reset(graph: Graph, attr: str) -> Graph:
    """The graph with an attribute `auto` wherever it can be."""
    return rewrite(graph, _setter(attr, lambda node: AUTO, lambda node: attr in node.attrs))


def _setter(attr: str, value: Callable[[Node], Attr], wanted: Callable[[Node], bool]) -> Rule:
    def rule(b: Builder, node: Node) -> Sequence[Value] | None:
        made = value(node) if wanted(node) else None
        if made is None or node.attrs[attr] == made:
            return None
        return b.insert(node.op, node.inputs, {**node.attrs, attr: made}, node.region)

    return rule
