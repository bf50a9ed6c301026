"""The roofline model of a lowered graph: the time of each kernel on a target, and the peak memory of the graph.

The time of a kernel is the longer of its arithmetic and its traffic, a part of the shorter if they overlap only
partly, and its launch. A `scan` runs its body once per iteration and pays for a step each time. A `repeat` runs its
body once per layer. Training adds the gradient of each kernel, the loss and the optimiser, and saves what the gradients
read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from math import ceil

from flashir.cost.backward import reached
from flashir.cost.fusion import Kernel, KernelGraph
from flashir.cost.node_cost import Sizes
from flashir.cost.target import LARGE, Target
from flashir.ir.cost import Contraction
from flashir.ir.graph import Graph, Node, Value
from flashir.ir.parameter_count import parameter_count
from flashir.ops.primitive.scan import cut_scan

BACK = 2  # steps in the gradient of a loop, per forward step
RECOMPUTED = 0.5  # products that the gradient of a fused kernel recomputes, per forward product: scores are not saved
OPTIMISER_STATE = 4  # float32 scalars per parameter: itself, its gradient, AdamW's two moments
OPTIMISER_PASSES = 7  # reads and writes of those in one step
LOSS_PASSES = 3  # over the logits: read for the sum, read and overwritten for the gradient

Seconds = defaultdict[str, float]

MATRIX, WASTE, VECTOR = "matrix products", "padding and packing", "elementwise arithmetic"
TRAFFIC, LAUNCH, STEP, REDUCE = "memory traffic", "kernel launches", "sequential steps", "gradient all-reduce"


@dataclass(frozen=True)
class Estimate:
    """A prediction.

    Args:
        ms: milliseconds of one run or of one training step.
        peak_bytes: peak memory of one device in bytes, including weights.
        terms: milliseconds per cost term; they add up to `ms`.
    """

    ms: float
    peak_bytes: int
    terms: Mapping[str, float]


def estimate(graph: Graph, target: Target, sizes: Sizes, *, training: bool = False) -> Estimate:
    """Predict the time and memory of a lowered graph on a target.

    Args:
        graph: the graph, lowered for the target's backend.
        target: the device or devices.
        sizes: the value of each symbol of the graph on one device.
        training: predict a whole training step instead of the forward pass.
    """
    reached_values = reached(graph) if training else set()
    totals = _Totals(target, reached_values)
    memory = totals.add_graph(graph, sizes, 1)
    weights = parameter_count(graph)
    if not training:
        return _estimate(target, totals.forward, memory.peak, weights * _weight_size(graph))
    logits = sum(value.type.bind(sizes).bytes for value in graph.outputs)
    kept_bytes = weights * 4 * OPTIMISER_STATE + logits
    recomputed, peak = 0.0, memory.peak
    if target.recomputes and memory.saved and kept_bytes + peak > target.memory:
        least = _Totals(target, reached_values, recomputes=True).add_graph(graph, sizes, 1)
        peak = max(least.peak, target.memory - kept_bytes)
        recomputed = (memory.peak - peak) / memory.saved
    seconds: Seconds = defaultdict(float)
    for name in (*totals.forward, *totals.backward):
        seconds[name] = (1 + recomputed) * totals.forward[name] + totals.backward[name]
    seconds[TRAFFIC] += (weights * 4 * OPTIMISER_PASSES + LOSS_PASSES * logits) / target.bandwidth
    if target.devices > 1:
        share = 2 * (target.devices - 1) / target.devices
        seconds[REDUCE] += share * weights * 4 / target.all_reduce
    return _estimate(target, seconds, peak, kept_bytes)


def _estimate(target: Target, seconds: Seconds, peak: float, kept_bytes: float) -> Estimate:
    """Add the costs paid once per run: the call, and mapping the memory of a program that allocates all at once."""
    seconds[LAUNCH] += target.call
    if target.fuses and peak >= LARGE:
        seconds[TRAFFIC] += peak / target.fresh
    terms = {name: 1e3 * value for name, value in seconds.items()}
    return Estimate(sum(terms.values()), ceil(kept_bytes + peak), terms)


@dataclass(frozen=True)
class Memory:
    """The memory that a graph needs besides its inputs.

    Args:
        peak: the most bytes alive at once, including the saved ones.
        saved: bytes saved for the backward pass.
    """

    peak: float
    saved: float = 0.0


@dataclass(frozen=True)
class Work:
    """The work of a kernel or of its gradient.

    Args:
        products: how often the products of the kernel are computed.
        launches: the number of kernel launches, each with a pass over the elements.
        moved: bytes read from and written to memory.
        fresh: bytes of newly allocated large tensors among those.
    """

    products: float
    launches: int
    moved: float
    fresh: float


class _Totals:
    """Adds up the seconds of every kernel, forward and backward, and finds the peak memory."""

    def __init__(self, target: Target, reached: Set[Value], *, recomputes: bool = False) -> None:
        self.target = target
        self.reached = reached
        self.recomputes = recomputes
        self.forward: Seconds = defaultdict(float)
        self.backward: Seconds = defaultdict(float)

    def add_graph(self, graph: Graph, sizes: Sizes, times: int, carried: int = 0) -> Memory:
        """Add the time of `times` runs and return the memory of one. A carried value is saved if its successor is."""
        fuses, epilogues = self.target.fuses, self.target.epilogues
        kernel_graph = KernelGraph(graph, sizes, fuses=fuses, epilogues=epilogues, reached=self.reached)
        pairs = zip(graph.inputs[:carried], graph.outputs)
        kernel_graph.saved |= {kernel_graph.home(after) for before, after in pairs if before in kernel_graph.saved}
        alive = _Lifetimes(kernel_graph)
        for kernel in kernel_graph.kernels:
            first = kernel.nodes[0]
            if first.region is not None:
                inside = self._add_loop(kernel_graph, first, times)
                alive.run(first.operands, {v: float(kernel_graph.type(v).bytes) for v in first.outputs}, inside)
                continue
            self._add_kernel(kernel_graph, kernel, times)
            alive.run(kernel.read, kernel.written, Memory(kernel.bytes if kernel.gradients else 0.0))
        return Memory(alive.peak, alive.saved)

    def _add_loop(self, kernel_graph: KernelGraph, node: Node, times: int) -> Memory:
        body = node.region
        assert body is not None
        if node.op == "repeat":
            rounds, carried = int(str(node.attrs["times"])), 1
        else:
            state, walked, _ = cut_scan(node.operands, node.attrs)
            carried, axis = len(state), int(str(node.attrs["axis"]))
            rounds = kernel_graph.type(walked[0]).sizes[axis]
            moved = sum(kernel_graph.type(v).bytes for v in (*walked, *node.outputs[carried:]))
            passes = times * self.target.number(f"slowdown.{node.op}")
            self._add_both_ways(TRAFFIC, passes * moved / self.target.bandwidth)
            self._add_both_ways(STEP, times * rounds * self.target.step)
        inside = self.add_graph(body, kernel_graph.sizes, times * rounds, carried)
        if not self.reached:
            return inside
        saved = inside.saved
        if node.op == "repeat" and self.recomputes:
            saved = float(sum(v.type.bind(kernel_graph.sizes).bytes for v in body.inputs[:carried]))
        return Memory(inside.peak + saved * max(rounds - 1, 0), saved * rounds)

    def _add_both_ways(self, name: str, seconds: float) -> None:
        """Add seconds to the forward pass and, in training, to the backward pass."""
        self.forward[name] += seconds
        if self.reached:
            self.backward[name] += BACK * seconds

    def _add_kernel(self, kernel_graph: KernelGraph, kernel: Kernel, times: int) -> None:
        work = Work(1, 1, kernel.bytes, large(kernel.written))
        self._add_work(self.forward, kernel_graph, kernel, times, work)
        if kernel.gradients:
            products = kernel.gradients + RECOMPUTED * (len(kernel.contractions) > 1)
            fresh = large({value: size for value, size in kernel.read.items() if value in self.reached})
            work = Work(products, kernel.gradients, kernel_graph.gradient_bytes(kernel), fresh)
            self._add_work(self.backward, kernel_graph, kernel, times, work)

    def _add_work(self, seconds: Seconds, kernel_graph: KernelGraph, kernel: Kernel, times: int, work: Work) -> None:
        """Add the seconds of a kernel or of its gradient."""
        target = self.target
        dtype = kernel_graph.type(kernel.nodes[-1].output).dtype
        if kernel.contractions:
            dtype = kernel_graph.type(kernel.nodes[0].operands[0]).dtype
        bandwidth, near = target.bandwidth, 1.0
        if kernel.bytes <= target.cache:  # holds for each kernel of a gradient too: each moves about as much
            bandwidth, near = target.cache_bandwidth, target.near
        rate = target.number(f"peak.{dtype}") * target.efficiency * near / work.products
        useful = sum(c.flops for c in kernel.contractions) / rate
        padded = sum(_padded(c, target) for c in kernel.contractions) / rate
        vector = (work.products if kernel.contractions else work.launches) * kernel.flops / target.vector
        traffic = work.moved / bandwidth
        arithmetic = padded + vector
        total = max(arithmetic, traffic) + (1 - target.overlap) * min(arithmetic, traffic)
        nodes = kernel.nodes if target.fuses else kernel.nodes[:1]  # without fusion, the rest is a product's epilogue
        slower = max((target.number(f"slowdown.{node.op}") for node in nodes), default=1.0)
        mapped = 0.0 if target.fuses else min(slower, 1.0) * work.fresh / target.fresh
        seconds[MATRIX] += times * useful
        seconds[WASTE] += times * (padded - useful)
        seconds[VECTOR] += times * vector
        seconds[TRAFFIC] += times * (total * slower - arithmetic + mapped)
        seconds[LAUNCH] += times * work.launches * target.launch


class _Lifetimes:
    """Bytes alive while kernels run in order: a value lives until its last reader, a saved one to the end."""

    def __init__(self, kernel_graph: KernelGraph) -> None:
        self.kernel_graph = kernel_graph
        self.peak = self.now = self.saved = 0.0
        self._alive: dict[Value, float] = {}
        self._uses: Counter[Value] = Counter(kernel_graph.home(value) for value in kernel_graph.graph.outputs)
        self._uses.update(kernel_graph.saved)
        for kernel in kernel_graph.kernels:
            self._uses.update({kernel_graph.home(value) for value in self._reads(kernel)})

    def _reads(self, kernel: Kernel) -> Iterable[Value]:
        return kernel.nodes[0].operands if kernel.nodes[0].region is not None else kernel.read

    def run(self, read: Iterable[Value], written: Mapping[Value, float], inside: Memory) -> None:
        """Run one kernel: its results come alive, and values that it is the last to read die."""
        self._alive.update(written)
        self.now += sum(written.values())
        self.saved += sum(size for value, size in written.items() if value in self.kernel_graph.saved) + inside.saved
        self.peak = max(self.peak, self.now + inside.peak)
        self.now += inside.saved
        for value in {self.kernel_graph.home(value) for value in read}:
            self._uses[value] -= 1
            if not self._uses[value]:
                self.now -= self._alive.pop(value, 0.0)


def large(sizes: Mapping[Value, float]) -> float:
    """The bytes of the values that are large."""
    return sum(size for size in sizes.values() if size >= LARGE)


def _padded(product: Contraction, target: Target) -> float:
    """The operations of a product rounded up to whole tiles, and of packing and storing its operands.

    A product with a vector streams its matrix, untiled.
    """
    if 1 in (product.m, product.n, product.k):
        return product.flops
    m, n, k = (-(-size // quantum) * quantum for size, quantum in zip((product.m, product.n, product.k), target.tile))
    return 2.0 * product.batch * n * (m * k + target.fill * (m + k))


def _weight_size(graph: Graph) -> int:
    """Bytes of one weight in the dtype of the graph."""
    types = [node.output.type.dtype.bytes for node in graph.walk() if node.op == "param"]
    return max(types, default=4)
