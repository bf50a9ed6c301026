"""timed: a graph as something to time, on inputs that lie where it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flashir.backend import Array, Backend, Params, Resident
from flashir.ir.graph import Graph


def timed(found: Backend, graph: Graph, params: Params, device: str, inputs: Sequence[Array]) -> Callable[[], object]:
    """One run forward of a lowered graph. To and from a device with a memory of its own, nothing is moved.

    Raises:
        TargetError: the device is not at hand.
    """
    if device != "cpu" and isinstance(found, Resident):
        return found.resident(graph, params, device, inputs)
    run = found.compile(graph, params, device)
    return lambda: run(inputs)
