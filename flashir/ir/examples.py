"""Graphs of a single op, from the samples on its record."""

from __future__ import annotations

from flashir.ir.builder import Builder
from flashir.ir.graph import Graph
from flashir.ir.op import OpDef, Sample


def sample_graph(record: OpDef, sample: Sample, result: int | None = None) -> Graph:
    """The graph of a sample: its operands are the inputs. It returns all results of the op, or the one at `result`."""
    b = Builder(record.name)
    names = operand_names(record, len(sample.operands))
    operands = [None if type_ is None else b.input(name, type_) for name, type_ in zip(names, sample.operands)]
    results = b.insert(record.name, operands, sample.attrs)
    return b.finish(*(results if result is None else (results[result],)))


def operand_names(record: OpDef, count: int) -> list[str]:
    """The names of the first `count` operands. Those of `xs*` are numbered: `xs0`, `xs1`."""
    names = [name.removesuffix("?") for name in record.operands[:count] if not name.endswith("*")]
    rest = record.operands[-1].removesuffix("*") if record.operands else ""
    return names + [f"{rest}{number}" for number in range(count - len(names))]
