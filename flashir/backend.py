"""The protocol of a backend: what a plug-in package provides for one framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from flashir.ir.graph import Graph, Node
from flashir.passes.base import Pass

Array = npt.NDArray[Any]
Params = Mapping[str, npt.NDArray[np.float32]]
Run = Callable[[Sequence[Array]], Array]
"""Arrays in the order of the graph's inputs -> the graph's one result."""


@runtime_checkable
class Backend(Protocol):
    """One framework. A backend is made without arguments, and imports its framework only when it runs something.

    `claims` and `passes` shape the lowering; `compile` turns the lowered graph into something that runs.
    """

    name: ClassVar[str]
    extra: ClassVar[str]
    """The extra of `pip install 'flashir[extra]'` that brings the framework; empty where the base install has it."""

    def versions(self) -> dict[str, str]:
        """The versions of the libraries that speed and results depend on. Raises TargetError where one is missing."""
        ...

    def devices(self) -> tuple[str, ...]:
        """The devices at hand on this machine, such as `("cpu",)`."""
        ...

    def claims(self, node: Node) -> bool:
        """Whether this backend does the node natively."""
        ...

    def passes(self) -> tuple[Pass, ...]:
        """What this backend wants done to a lowered graph, beyond what all want."""
        ...

    def compile(self, graph: Graph, params: Params, device: str) -> Run:
        """A lowered graph as something that runs on a device at hand. Raises TargetError, ParameterError."""
        ...


@runtime_checkable
class Exporter(Backend, Protocol):
    """A backend that can also write a model to disk."""

    def export(self, model: Graph, graph: Graph, params: Params, out: Path, metadata: Mapping[str, str]) -> Path:
        """Write the artefact into the folder `out`, whole or not at all, and return its main file.

        Args:
            model: the model at the storey of blocks, choices made; its text goes into the artefact.
            graph: the same model lowered.
            params: by full name.
            out: the folder.
            metadata: what else the artefact shall carry.
        """
        ...
