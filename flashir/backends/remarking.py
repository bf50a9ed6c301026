"""The protocol of a backend with kernels of its own: what a model or a machine lacks for them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from flashir.backends.protocols import Backend
from flashir.ir.graph import Graph


@runtime_checkable
class Remarking(Backend, Protocol):
    """A backend that can say which of its own kernels a model misses."""

    def remarks(self, model: Graph) -> tuple[str, ...]:
        """A sentence for each kernel that the device has and a settled model cannot use, with the reason."""
        ...

    def condition(self) -> str:
        """What the kernels lack on this machine; empty if nothing, or if no device is here that could run them."""
        ...
