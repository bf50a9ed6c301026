"""The multiplications of a gated layer, as graphs to match.

hidden, keys    the projections of the normed input: the gate and v, and what queries and keys are made of
scores, local   the scores, and their product with v
state, far      the states k^T v of the chunks, and their product with the queries; flash only
out             the output projection
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import networkx as nx
from networkx.algorithms.isomorphism import DiGraphMatcher, categorical_node_match

from flashir_onnx.raising.dataflow import PRODUCT, WEIGHT

PRODUCTS = ("scores", "local", "state", "far")
_LOCAL = "hidden>local hidden>out keys>scores scores>local local>out"
_FAR = "hidden>state keys>state state>far keys>far far>out"


def _template(edges: str) -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_edges_from((edge.partition(">")[0], edge.partition(">")[2]) for edge in edges.split())
    nx.set_node_attributes(graph, {role: PRODUCT if role in PRODUCTS else WEIGHT for role in graph}, "kind")
    return graph


TEMPLATES = tuple(
    (op, _template(edges if apart else edges.replace("keys", "hidden")))
    for op, edges in (("flash", f"{_LOCAL} {_FAR}"), ("gau", _LOCAL))
    for apart in (True, False)
)
"""The templates with two projections, or with a single one."""


@dataclass(frozen=True)
class Match:
    """A layer in a graph.

    Args:
        op: `flash` or `gau`.
        roles: the value of each multiplication.
    """

    op: str
    roles: Mapping[str, str]

    @property
    def keys(self) -> str:
        """The projection that queries and keys are made of."""
        return self.roles.get("keys", self.roles["hidden"])


def layers(multiplications: nx.DiGraph[str]) -> Iterator[tuple[Match, ...] | set[str]]:
    """The layers of a graph in order: each its possible matches, or the multiplications that match no template.

    A layer is held together by products: the projections of one layer reach the next only through other projections.
    With a single projection, scores and states can be told apart only by their values.
    """
    kinds = multiplications.nodes(data="kind")
    inside = [edge for edge in multiplications.edges if any(kinds[end] == PRODUCT for end in edge)]
    order = {name: place for place, name in enumerate(nx.topological_sort(multiplications))}
    groups = nx.weakly_connected_components(multiplications.edge_subgraph(inside))
    for names in sorted(groups, key=lambda names: max(order[name] for name in names)):
        yield _matches(multiplications.subgraph(names)) or names


def _matches(part: nx.DiGraph[str]) -> tuple[Match, ...]:
    return tuple(
        Match(op, dict(roles))
        for op, template in TEMPLATES
        for roles in DiGraphMatcher(template, part, categorical_node_match("kind", None)).isomorphisms_iter()
    )
