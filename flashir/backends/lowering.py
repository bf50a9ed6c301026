"""Lowering: the passes that turn a settled model into ops that a target claims.

`Lowering.passes` has their order. The central one is `Lower` (`flashir.transforms.lower`): claim or descend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flashir.backends.protocols import Backend, Portable
from flashir.backends.registry import backend_names, backend_of, having
from flashir.errors import TargetError, either
from flashir.ir import Graph
from flashir.transforms.canonicalise import Canonicalise
from flashir.transforms.hoist import Hoist
from flashir.transforms.keep_range import KeepRange
from flashir.transforms.lower import Claims, EinsumToMatmul, Lower, primitives
from flashir.transforms.name_parameters import NameParameters
from flashir.transforms.pad import Pad
from flashir.transforms.pipeline import Pass, Pipeline


@dataclass(frozen=True)
class Lowering:
    """The passes for one target.

    Args:
        target: the name of the target, for errors.
        claims: whether the target implements a node natively.
        extra: the target's own passes; they run on the lowered graph before canonicalisation.
        check: verify the graph after every pass.
    """

    target: str
    claims: Claims = primitives
    extra: Sequence[Pass] = ()
    check: bool = True

    @staticmethod
    def of(target: str, *, check: bool = True, portable: bool = False) -> Lowering:
        """The lowering for a target by name; down to primitives if its backend is not installed.

        Args:
            target: the name of the target.
            check: verify the graph after every pass.
            portable: use only operators that every runtime of the format supports.

        Raises:
            TargetError: the backend has no portable form.
        """
        if target.partition(":")[0] not in backend_names():
            return Lowering(target, check=check)
        try:
            backend = backend_of(target)
        except TargetError:
            return Lowering(target, check=check)
        if portable:
            backend = portable_form(backend, target)
        return Lowering(target, backend.claims, backend.passes(), check)

    def passes(self, *, carried: int = 0, lengths: tuple[int, ...] = ()) -> tuple[Pass, ...]:
        """The passes in order."""
        lower = (NameParameters(), Pad(), Lower(self.target, self.claims), EinsumToMatmul())
        keep_range = KeepRange(self.target, self.claims, carried, lengths)
        return (*lower, keep_range, *self.extra, Hoist(), Canonicalise())

    def run(self, graph: Graph, *, carried: int = 0, lengths: tuple[int, ...] = ()) -> Graph:
        """Lower a graph. `carried` and `lengths` are for graphs that run on their own results: see `KeepRange`."""
        return Pipeline(self.passes(carried=carried, lengths=lengths), check=self.check).run(graph)


def portable_form(backend: Backend, target: str) -> Backend:
    """The backend without operators of a single runtime. Raises TargetError if it has no such form."""
    if not isinstance(backend, Portable):
        raise TargetError(
            f"the backend {backend.name!r} has no portable form",
            where=target,
            hint=f"leave out portable, or choose a target of {either(having(Portable))}",
        )
    return backend.portable()
