"""The roofline floor: the least time that a run can take on a target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from flashir.backends.lowering import Lowering
from flashir.cost import Target, estimate
from flashir.cost.estimate import MATRIX, OPTIMISER_PASSES
from flashir.cost.fusion import SIDES
from flashir.ir import Graph, Node, Value
from flashir.planning.plan import Plan
from flashir.planning.workload import Workload

PARTS = ("gather", "slice")
"""Ops that read only a part of their operand."""


def floor(plan: Plan, record: Target) -> tuple[float, str]:
    """The least milliseconds of a run by the roofline of the target, and what bounds it.

    The bound is the larger of two times. One is that of the contractions of the lowered graph at the peak rate. The
    other is that of moving the inputs, the outputs and the parameters that are read, at the bandwidth of the cache if
    all of it fits there, and of the memory otherwise. A training step has two more products for each product, and
    passes seven times over all parameters in float32.
    """
    lowered = plan.lowered or Lowering.of(record.name, check=False).run(plan.graph)
    sizes = Workload(plan.batch, plan.seq_len).sizes(plan.graph, record.devices)
    forward = estimate(lowered, replace(record, near=1), sizes)
    arithmetic = forward.terms.get(MATRIX, 0.0) * record.efficiency / record.near  # the term is at the achieved rate
    arithmetic *= 1 + SIDES if plan.training else 1
    moved = sum(value.type.bind(sizes).bytes for value in (*plan.graph.inputs, *plan.graph.outputs))
    if plan.training:
        moved += 4 * plan.parameters * OPTIMISER_PASSES
    else:
        moved += parameter_bytes(lowered, sizes)
    traffic = 1e3 * moved / (record.cache_bandwidth if moved <= record.cache else record.bandwidth)
    return (arithmetic, "arithmetic") if arithmetic >= traffic else (traffic, "memory traffic")


def parameter_bytes(lowered: Graph, sizes: Mapping[str, int]) -> int:
    """The bytes of parameters that a run reads, each once and in its own dtype; of a lookup table, only the rows."""
    sizes_read: dict[str, int] = {}
    for name, size in _read(lowered, sizes, 1):
        sizes_read[name] = max(size, sizes_read.get(name, 0))
    return sum(sizes_read.values())


def _read(graph: Graph, sizes: Mapping[str, int], rounds: int) -> Iterator[tuple[str, int]]:
    """Yield each parameter's name and the bytes read of it, over all layers if the name has a layer index."""
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
                parts = [part.type.bind(sizes).bytes for reader in readers[node.output] for part in reader.outputs]
                size = min(size, sum(parts))
            yield name, size * (rounds if "{" in name else 1)
