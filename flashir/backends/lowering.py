"""The lowering: the passes that take a model, choices made, down to what a target claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flashir.backends.protocols import Backend, Portable
from flashir.errors import TargetError, either
from flashir.ir import Graph
from flashir.transforms.canonicalise import Canonicalise
from flashir.transforms.hoist_invariants import Hoist
from flashir.transforms.keep_range import KeepRange
from flashir.transforms.lower import Claims, EinsumToMatmul, Lower, primitives
from flashir.transforms.name_parameters import NameParameters
from flashir.transforms.pad_tokens import PadTokens
from flashir.transforms.pipeline import Pass, Pipeline


@dataclass(frozen=True)
class Lowering:
    """The passes for one target.

    Args:
        target: its name, for errors.
        claims: what the target does natively.
        extra: the target's own passes; they see a graph that is lowered, and not yet canonical.
        check: verify the graph after every pass.
        carried, lengths: of a graph that is run again and again on its own results: see `KeepRange`.
    """

    target: str
    claims: Claims = primitives
    extra: Sequence[Pass] = ()
    check: bool = True
    carried: int = 0
    lengths: tuple[int, ...] = ()

    @staticmethod
    def of(target: str, *, check: bool = True, portable: bool = False) -> Lowering:
        """The lowering for a target by name; down to primitives where its backend is not installed.

        Args:
            target: its name.
            check: verify the graph after every pass.
            portable: use nothing that only one runtime of the format has.

        Raises:
            TargetError: the backend has nothing of the kind to leave out.
        """
        from flashir.backends.registry import backend_names, backend_of

        if target.partition(":")[0] not in backend_names():
            return Lowering(target, check=check)
        try:
            found = backend_of(target)
        except TargetError:
            return Lowering(target, check=check)
        if portable:
            found = portable_form(found, target)
        return Lowering(target, found.claims, found.passes(), check)

    def passes(self) -> tuple[Pass, ...]:
        """The passes in order."""
        lower = (NameParameters(), PadTokens(), Lower(self.target, self.claims), EinsumToMatmul())
        kept = KeepRange(self.target, self.claims, self.carried, self.lengths)
        return (*lower, kept, *self.extra, Hoist(), Canonicalise())

    def run(self, graph: Graph) -> Graph:
        """The lowered graph."""
        return Pipeline(self.passes(), check=self.check).run(graph)


def portable_form(found: Backend, target: str) -> Backend:
    """The backend without what only one runtime has. Raises TargetError where it has nothing of the kind."""
    if not isinstance(found, Portable):
        from flashir.backends.registry import having

        raise TargetError(
            f"the backend {found.name!r} has no operators of one runtime alone to leave out",
            where=target,
            hint=f"leave out portable, or choose a target of {either(having(Portable))}",
        )
    return found.portable()
