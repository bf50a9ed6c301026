"""The workload that is planned for or measured."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from flashir.errors import SettingError
from flashir.ir import Dim, Graph, symbols
from flashir.ir.dims import plain
from flashir.ir.limits import LARGEST_SIZE

LONGEST = 2**32


@dataclass(frozen=True)
class Workload:
    """The workload of a plan: rows per batch over all devices, tokens per row, and whether it trains."""

    batch: int = 1
    seq_len: int = 4096
    training: bool = False

    def __post_init__(self) -> None:
        for name in ("batch", "seq_len"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        problems = [
            f"{name} must be a whole number from 1 to {LONGEST}, got {value!r}"
            for name, value in (("batch", self.batch), ("seq_len", self.seq_len))
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LONGEST
        ]
        if not problems and self.batch * self.seq_len > LARGEST_SIZE:
            count = self.batch * self.seq_len
            problems.append(f"batch times seq_len must be at most {LARGEST_SIZE} tokens, got {count}")
        if problems:
            raise SettingError(problems)

    def sizes(self, graph: Graph, devices: int = 1) -> dict[str, int]:
        """The value of each symbol of the graph. The first axis of an input counts rows, the others tokens."""
        bound: dict[str, int] = {}
        for value in graph.inputs:
            for axis, size in enumerate(value.type.shape):
                count = self.seq_len if axis else ceil(self.batch / devices)
                if isinstance(size, Dim):
                    bound.update({name: count for name in symbols(size) if name not in bound})
        return bound
