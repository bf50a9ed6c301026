"""name-parameters: give every block that owns parameters its scope."""

from __future__ import annotations

from dataclasses import dataclass

from flashir.ir.graph import Graph
from flashir.ir.parameter_names import with_scopes
from flashir.transforms.pipeline import Pass


@dataclass(frozen=True)
class NameParameters(Pass):
    """`flash(%h)` -> `flash(%h) {scope = "layers.{i}"}`"""

    name = "name-parameters"
    optional = False

    def apply(self, graph: Graph) -> Graph:
        """Set the scope of each block; see `flashir.ir.parameter_names`."""
        return with_scopes(graph)
