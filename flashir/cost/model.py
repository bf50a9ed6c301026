"""The roofline over a lowered graph: how long each kernel takes on a target, and how much memory the whole needs.

A kernel takes the longer of its arithmetic and its traffic, some of the shorter where they overlap in part, and what
it costs to start it. A `scan` takes its body so many times and a step each time; a `repeat` its body so many times.
Training adds the backward's two products for each of the forward's, and keeps what the backward reads.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from flashir.cost.groups import Kernel, Region, Sizes
from flashir.cost.target import Target
from flashir.ir.graph import Graph, Node, Value
from flashir.ir.naming import parameters
from flashir.ir.types import DType
from flashir.ops.costs import Contraction

BACKWARD = 2  # products, passes over memory and launches of the backward for each of the forward
OPTIMISER_STATE = 4  # float32 numbers a parameter: itself, its gradient, AdamW's two moments
OPTIMISER_PASSES = 7  # of those, read and written in a step

Seconds = defaultdict[str, float]

MATRIX, WASTE, VECTOR = "matrix products", "tile waste", "elementwise arithmetic"
TRAFFIC, LAUNCH, STEP, REDUCE = "memory traffic", "kernel launches", "sequential steps", "gradient all-reduce"


@dataclass(frozen=True)
class Estimate:
    """A prediction.

    Args:
        ms: milliseconds of one run, or of one training step.
        peak_bytes: bytes of memory on one device, weights included.
        terms: the milliseconds of each kind; they add up to `ms`.
    """

    ms: float
    peak_bytes: int
    terms: Mapping[str, float]


def estimate(graph: Graph, target: Target, sizes: Sizes, *, training: bool = False) -> Estimate:
    """What a lowered graph takes on a target.

    Args:
        graph: lowered for the target's backend.
        target: the device, or devices; sizes are those that one device sees.
        sizes: a number for each symbol of the graph.
        training: forward, backward and optimiser step instead of the forward alone.
    """
    seconds: Seconds = defaultdict(float)
    walk = _Walk(target, training)
    activations = walk.graph(graph, sizes, 1, seconds)
    weights = sum(_count(spec.shape) for spec in parameters(graph).values())
    weight_bytes = weights * 4 * OPTIMISER_STATE if training else weights * _weight_size(graph)
    if training:
        seconds[TRAFFIC] += weights * 4 * OPTIMISER_PASSES / target.bandwidth
        if target.devices > 1:
            share = 2 * (target.devices - 1) / target.devices
            seconds[REDUCE] += share * weights * 4 / target.all_reduce
    terms = {name: 1e3 * value for name, value in seconds.items()}
    return Estimate(sum(terms.values()), ceil(weight_bytes + activations), terms)


class _Walk:
    """Adds up the seconds of every kernel, and finds the peak of what is alive."""

    def __init__(self, target: Target, training: bool) -> None:
        self.target = target
        self.passes = 1 + BACKWARD if training else 1
        self.training = training

    def graph(self, graph: Graph, sizes: Sizes, times: int, seconds: Seconds) -> float:
        """Add the time of `times` runs; return the peak bytes of values made inside, kept ones included."""
        region = Region(graph, sizes, fuses=self.target.fuses)
        alive = _Lifetimes(region, keep_all=self.training)
        for kernel in region.kernels:
            first = kernel.nodes[0]
            if first.region is not None:
                inside = self._loop(region, first, times, seconds)
                alive.run(first.operands, {v: float(region.type(v).bytes) for v in first.outputs}, inside)
            else:
                self._kernel(region, kernel, times, seconds)
                alive.run(kernel.read, kernel.written, 0.0)
        return alive.peak

    def _loop(self, region: Region, node: Node, times: int, seconds: Seconds) -> float:
        body = node.region
        assert body is not None
        if node.op == "repeat":
            rounds = int(str(node.attrs["times"]))
        else:
            carries, axis = int(str(node.attrs["carries"])), int(str(node.attrs["axis"]))
            rounds = region.type(node.operands[carries]).sizes[axis]
            moved = sum(region.type(v).bytes for v in (*node.operands[carries:], *node.outputs[carries:]))
            passes = times * self.passes * self.target.slowdown.get(node.op, 1.0)
            seconds[TRAFFIC] += passes * moved / self.target.bandwidth
            seconds[STEP] += times * rounds * self.target.step * self.passes
        inside = self.graph(body, region.sizes, times * rounds, seconds)
        return inside * rounds if self.training else inside

    def _kernel(self, region: Region, kernel: Kernel, times: int, seconds: Seconds) -> None:
        target, passes = self.target, times * self.passes
        dtype = region.type(kernel.nodes[-1].output).dtype
        if kernel.contractions:
            dtype = region.type(kernel.nodes[0].operands[0]).dtype
        rate = peak_of(target, dtype) * target.efficiency
        useful = sum(c.flops for c in kernel.contractions) / rate
        padded = sum(_padded(c, target.tile) for c in kernel.contractions) / rate
        vector = kernel.flops / target.vector
        bandwidth = target.cache_bandwidth if kernel.bytes <= target.cache else target.bandwidth
        traffic = kernel.bytes / bandwidth
        arithmetic = padded + vector
        total = max(arithmetic, traffic) + (1 - target.overlap) * min(arithmetic, traffic)
        slower = max((target.slowdown.get(node.op, 1.0) for node in kernel.nodes), default=1.0)
        seconds[MATRIX] += passes * useful
        seconds[WASTE] += passes * (padded - useful)
        seconds[VECTOR] += passes * vector
        seconds[TRAFFIC] += passes * (total * slower - arithmetic)
        seconds[LAUNCH] += passes * target.launch


class _Lifetimes:
    """Bytes alive while kernels run in order: a value from its kernel to the last that reads it, or to the end."""

    def __init__(self, region: Region, *, keep_all: bool) -> None:
        self.region = region
        self.keep_all = keep_all
        self.peak = self.now = 0.0
        self._alive: dict[Value, float] = {}
        self._uses: Counter[Value] = Counter(region.home(value) for value in region.graph.outputs)
        for kernel in region.kernels:
            self._uses.update({region.home(value) for value in self._reads(kernel)})

    def _reads(self, kernel: Kernel) -> Iterable[Value]:
        return kernel.nodes[0].operands if kernel.nodes[0].region is not None else kernel.read

    def run(self, read: Iterable[Value], written: Mapping[Value, float], inside: float) -> None:
        """One kernel: its results come alive, and what it reads last dies."""
        self._alive.update(written)
        self.now += sum(written.values())
        self.peak = max(self.peak, self.now + inside)
        if self.keep_all:
            self.now += inside
            return
        for value in {self.region.home(value) for value in read}:
            self._uses[value] -= 1
            if not self._uses[value]:
                self.now -= self._alive.pop(value, 0.0)


def peak_of(target: Target, dtype: DType) -> float:
    """Multiply-and-add operations a second in that type; that of float32 where the record has none."""
    return target.peak.get(str(dtype), target.peak["f32"])


def _padded(product: Contraction, tile: tuple[int, int, int]) -> float:
    m, n, k = (-(-size // quantum) * quantum for size, quantum in zip((product.m, product.n, product.k), tile))
    return 2.0 * product.batch * m * n * k


def _weight_size(graph: Graph) -> int:
    """Bytes of one weight as the graph computes with it."""
    types = [node.output.type.dtype.bytes for node in graph.walk() if node.op == "param"]
    return max(types, default=4)


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
