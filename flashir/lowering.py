"""The lowering: the passes that take a model, choices made, down to what a target claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flashir.errors import TargetError
from flashir.ir import Graph
from flashir.passes.base import Pass, Pipeline
from flashir.passes.canonicalise import Canonicalise
from flashir.passes.hoist import Hoist
from flashir.passes.lower import Claims, EinsumToMatmul, Lower, primitives
from flashir.passes.pad import PadTokens
from flashir.passes.scopes import NameParameters


@dataclass(frozen=True)
class Lowering:
    """The passes for one target.

    Args:
        target: its name, for errors.
        claims: what the target does natively.
        extra: the target's own passes; they see a graph that is lowered, and not yet canonical.
        check: verify the graph after every pass.
    """

    target: str
    claims: Claims = primitives
    extra: Sequence[Pass] = ()
    check: bool = True

    @staticmethod
    def of(target: str, *, check: bool = True) -> Lowering:
        """The lowering for a target by name; down to primitives where its backend is not installed."""
        from flashir.registry import backend_names, backend_of

        if target.partition(":")[0] not in backend_names():
            return Lowering(target, check=check)
        try:
            found = backend_of(target)
        except TargetError:
            return Lowering(target, check=check)
        return Lowering(target, found.claims, found.passes(), check)

    def passes(self) -> tuple[Pass, ...]:
        """The passes in order."""
        lower = (NameParameters(), PadTokens(), Lower(self.target, self.claims), EinsumToMatmul())
        return (*lower, *self.extra, Hoist(), Canonicalise())

    def run(self, graph: Graph) -> Graph:
        """The lowered graph."""
        return Pipeline(self.passes(), check=self.check).run(graph)
