"""What the tests of the PyTorch backend share beside what all do: modules of small models, and a card that is none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from torch import Tensor, fx

from flashir.backends.lowering import Lowering
from flashir.ir import Graph
from flashir.models.parameters import unit
from flashir.reference.compare import relative_error
from flashir_torch import module
from flashir_torch.replay import Work
from flashir_torch.session import Session, compiled
from tests.backends.support import SMALL, TOLERANCE, Array, flash, tokens

__all__ = [
    "SMALL",
    "TOLERANCE",
    "Array",
    "compiling",
    "flash",
    "lowered",
    "net",
    "relative_error",
    "session",
    "tokens",
    "unit",
]


def lowered(graph: Graph) -> Graph:
    """Down to what the PyTorch backend claims."""
    return Lowering.of("torch:cpu").run(graph)


def net(graph: Graph, params: Mapping[str, Array] | None = None) -> fx.GraphModule:
    """A graph of any level as a module, with parameters at which every term matters."""
    return module(lowered(graph), unit(graph) if params is None else params)


def session(graph: Graph, params: Mapping[str, Array]) -> Session:
    """A graph of any level, numpy in and out."""
    return compiled(lowered(graph), params, "cpu")


class Again:
    """Records by remembering; counts what it was asked for."""

    def __init__(self) -> None:
        self.warmed = self.recorded = self.replayed = 0

    def warm_up(self, work: Work, inputs: tuple[Tensor, ...]) -> Tensor:
        self.warmed += 1
        return work(*inputs)

    def record(self, work: Work, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
        self.recorded += 1

        def replay() -> Tensor:
            self.replayed += 1
            return work(*inputs)

        return replay


ROOT = Path(__file__).parents[3]


def compiling(cache_folder: Path, *arguments: str) -> str:
    """What Python prints with Triton's compiler in place of its interpreter."""
    import triton

    if not (Path(triton.__file__).parent / "backends/nvidia/bin/ptxas").exists():
        pytest.skip("this Triton has no ptxas")
    chosen = {**os.environ, "TRITON_CACHE_DIR": str(cache_folder)}
    chosen.pop("TRITON_INTERPRET", None)
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=chosen).stdout
