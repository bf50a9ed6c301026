"""Pass and Pipeline. A pass is a frozen dataclass whose fields are its options; it maps a Graph to a PassResult.

Only the Pipeline verifies, times, prints, dumps and counts fuel. A pass has no side effects.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

from flashir.errors import FlashirError, InputError, IRError
from flashir.files.atomic import atomic_write
from flashir.files.foreign import guarded
from flashir.ir.graph import Graph
from flashir.ir.text.printer import dumps
from flashir.ir.verify import verify


@dataclass(frozen=True)
class PassResult:
    """The graph after a pass, and whether it differs from the graph before."""

    graph: Graph
    modified: bool


@dataclass(frozen=True)
class Pass(ABC):
    """A named transformation of graphs.

    The result is correct without an `optional` pass. Fuel counts optional passes.
    """

    name: ClassVar[str]
    optional: ClassVar[bool] = True

    @abstractmethod
    def apply(self, graph: Graph) -> Graph:
        """The transformed graph. If nothing applies, this is the same object."""

    def __call__(self, graph: Graph) -> PassResult:
        """Apply the pass and report whether it changed the graph."""
        result = self.apply(graph)
        return PassResult(result, result != graph)

    def __str__(self) -> str:
        """The text that `parse_pipeline` reads: `name{option=value other=a,b}`, without defaults."""
        shown = [
            f"{f.name}={option_text(getattr(self, f.name))}"
            for f in fields(self)
            if f.repr and getattr(self, f.name) != f.default
        ]
        return f"{self.name}{{{' '.join(shown)}}}" if shown else self.name


def option_text(value: object) -> str:
    """The value of an option as text; items of a tuple are separated by commas."""
    if isinstance(value, tuple):
        return ",".join(map(option_text, value))
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


@dataclass(frozen=True)
class Timing:
    """The time of one pass in seconds, and whether it changed the graph."""

    name: str
    seconds: float
    modified: bool


@dataclass
class Pipeline:
    """Runs passes in order.

    Args:
        passes: the passes.
        check: verify the graph before the first pass and after each one.
        dump_dir: a folder for `NNN-pass.fir`, the graph after each pass, written as passes end. Those of an earlier run
            are removed first.
        print_after: names of passes after which to print the graph; "all" for every pass.
        show: prints a text.
        fuel: the number of optional passes to run, None for all. Bisect it to find a pass that miscompiles.
    """

    passes: Sequence[Pass]
    check: bool = True
    dump_dir: Path | None = None
    print_after: Sequence[str] = ()
    show: Callable[[str], None] = print
    fuel: int | None = None
    timings: list[Timing] = field(default_factory=list)

    def run(self, graph: Graph) -> Graph:
        """Run every pass. Raises IRError, which names the pass, if one produces an invalid graph."""
        if self.check:
            verify(graph)
        fuel = self.fuel
        if self.dump_dir is not None:
            _remove_dumps(self.dump_dir)
        self._after(0, "input", graph)
        for number, step in enumerate(self.passes, 1):
            if step.optional and fuel is not None:
                if fuel == 0:
                    continue
                fuel -= 1
            start = time.perf_counter()
            result = step(graph)
            self.timings.append(Timing(step.name, time.perf_counter() - start, result.modified))
            graph = result.graph
            self._after(number, step.name, graph)
            if self.check and result.modified:
                self._verify(graph, step)
        return graph

    def _verify(self, graph: Graph, culprit: Pass) -> None:
        try:
            verify(graph)
        except FlashirError as error:
            raise IRError(error.problems, where=f"after the pass {culprit}", hint="this is a bug in the pass") from None

    def _after(self, number: int, name: str, graph: Graph) -> None:
        if name in self.print_after or "all" in self.print_after:
            self.show(f"// after {name}\n{dumps(graph, types=True)}")
        if self.dump_dir is not None:
            file = self.dump_dir / f"{number:03d}-{re.sub('[^a-z0-9-]', '_', name)}.fir"
            atomic_write(file, lambda stream: stream.write(dumps(graph, types=True).encode()))


def _remove_dumps(folder: Path) -> None:
    """Remove the files of an earlier run, which may have had more passes."""
    with guarded(folder, InputError, "earlier dumps cannot be removed"):
        for file in folder.glob("[0-9][0-9][0-9]-*.fir"):
            file.unlink()
