"""The floor: the time below which the roofline of a target lets no run go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from flashir.backends.lowering import Lowering
from flashir.cost import Target
from flashir.cost.estimate import MATRIX, OPTIMISER_PASSES
from flashir.cost.fusion import SIDES
from flashir.ir import Graph, Node, Value
from flashir.planning.plan import Plan, Ranking
from flashir.planning.workload import Workload

PARTS = ("gather", "slice")
"""Ops that read a part of what they are given."""


def floor(made: Plan, record: Target) -> tuple[float, str]:
    """The milliseconds below which the record's roofline lets no run go, and what bounds it.

    The contractions of the lowered graph at the peak rate; or what must be moved: inputs, results, and of the
    parameters what is read, at the bandwidth of the memory, or of the cache where that holds all of it from one run to
    the next. A training step has two more products for each, and passes over all parameters seven times, in float32.
    """
    forward = Ranking(replace(record, near=1), Workload(made.batch, made.seq_len)).estimate(made.graph)
    arithmetic = forward.terms.get(MATRIX, 0.0) * record.efficiency / record.near  # the term counts the rate reached
    arithmetic *= 1 + SIDES if made.training else 1
    sizes = Workload(made.batch, made.seq_len).sizes(made.graph, record.devices)
    moved = sum(value.type.bind(sizes).bytes for value in (*made.graph.inputs, *made.graph.outputs))
    if made.training:
        moved += 4 * made.parameters * OPTIMISER_PASSES
    else:
        moved += parameter_bytes(Lowering.of(record.name, check=False).run(made.graph), sizes)
    traffic = 1e3 * moved / (record.cache_bandwidth if moved <= record.cache else record.bandwidth)
    return (arithmetic, "arithmetic") if arithmetic >= traffic else (traffic, "memory traffic")


def parameter_bytes(lowered: Graph, sizes: Mapping[str, int]) -> int:
    """What a run must read of the parameters, each once and in its own type: of a table, the rows that it looks up."""
    found: dict[str, int] = {}
    for name, size in _read(lowered, sizes, 1):
        found[name] = max(size, found.get(name, 0))
    return sum(found.values())


def _read(graph: Graph, sizes: Mapping[str, int], rounds: int) -> Iterator[tuple[str, int]]:
    """Every parameter by name, and the bytes that are read of it; of all layers where each has one of that name."""
    readers: dict[Value, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        for value in node.operands:
            readers[value].append(node)
    for node in graph.nodes:
        if node.region is not None:
            yield from _read(node.region, sizes, rounds * int(str(node.attrs.get("times", 1))))
        elif node.op == "param":
            name, size = str(node.attrs["name"]), node.output.type.bind(sizes).bytes
            if all(reader.op in PARTS for reader in readers[node.output]):
                parts = [each.type.bind(sizes).bytes for reader in readers[node.output] for each in reader.outputs]
                size = min(size, sum(parts))
            yield name, size * (rounds if "{" in name else 1)
