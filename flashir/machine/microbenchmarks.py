"""The micro-kernels of calibration: small graphs that each determine one number of a target record.

They run through the target's own lowering and backend, so a number reflects how the backend implements the op.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from flashir.cost.target import Target
from flashir.ir import Builder, DType, Graph, Value

WIDE, NARROW = 1536, 768  # of a base layer
ROWS, CARD_ROWS = 4096, 65536  # tokens of a run; on a GPU, enough to take longer than a launch
CHUNK, KEY = 256, 128
CHAIN = 64  # small ops in a row, so that one run is long enough to time
TINY = 8
STEPS = 32


@dataclass(frozen=True)
class MicroKernel:
    """A graph to time.

    Args:
        name: its name in timings.
        tells: the number of the record that it determines.
        graph: builds the graph.
    """

    name: str
    tells: str
    graph: Callable[[], Graph]

    @property
    def may_be_refused(self) -> bool:
        """Whether a target may lack the type of the kernel."""
        return self.tells.startswith("peak.") and self.tells != "peak.f32"


def _chain(name: str, shape: str, count: int, step: Callable[[Builder, Value, Value], Value]) -> Callable[[], Graph]:
    """A graph that applies a step `count` times in sequence."""

    def build() -> Graph:
        b = Builder(name)
        x = y = b.input("x", f"f32[{shape}]")
        for _ in range(count):
            y = step(b, y, x)
        return b.finish(y)

    return build


def _add(b: Builder, y: Value, x: Value) -> Value:
    return b.add(y, x)


def _silu(b: Builder, y: Value, x: Value) -> Value:
    return b.silu(y)


def _product(name: str, left: str, right: str, dtype: str = "f32") -> Callable[[], Graph]:
    def build() -> Graph:
        b = Builder(name)
        return b.finish(_largest(b, b.matmul(b.input("x", f"{dtype}[{left}]"), b.input("y", f"{dtype}[{right}]"))))

    return build


def _largest(b: Builder, result: Value) -> Value:
    """A small result instead of a large one, because a large array that leaves the graph costs time of its own."""
    return b.reduce_max(result, axes=tuple(range(result.type.rank)))


def _narrow_product(rows: int, dtype: str) -> Callable[[], Graph]:
    """The product of some rows with a weight in a narrow type. A runtime may pack the weight once, as for a layer.

    As in a model, inputs are in float32: to convert arrays outside of the graph takes longer than the product.
    """

    def build() -> Graph:
        b = Builder(dtype)
        narrow = DType.named(dtype)
        x = b.cast(b.input("x", f"f32[{rows}, {NARROW}]"), dtype=narrow)
        product = b.matmul(x, b.param(name="weight", shape=(NARROW, WIDE), dtype=narrow, scope=""))
        return b.finish(_largest(b, b.cast(product, dtype=DType.F32)))

    return build


def _near_product() -> Graph:
    """The product of one chunk with a weight, whose layout the backend may choose."""
    b = Builder("near_product")
    x = b.input("x", f"f32[{CHUNK}, {NARROW}]")
    return b.finish(_largest(b, b.matmul(x, b.param(name="weight", shape=(NARROW, WIDE), scope=""))))


def _loop() -> Graph:
    """A loop that sums the states of chunks of the smallest size that a plan considers."""
    b = Builder("loop")
    rows = CHUNK // 4
    start = b.input("start", f"f32[1, {KEY}, {WIDE}]")
    keys, values = (b.input(name, f"f32[1, {STEPS}, {rows}, {width}]") for name, width in (("k", KEY), ("v", WIDE)))
    body = b.subgraph()
    state = body.input("state", start.type)
    k, v = body.input("k", f"f32[1, {rows}, {KEY}]"), body.input("v", f"f32[1, {rows}, {WIDE}]")
    more = body.add(state, body.matmul(k, v, transpose_x=True))
    last, _ = b.results("scan", start, keys, values, carries=1, axis=1, body=body.finish(more, body.matmul(k, state)))
    return b.finish(last)


def _walk(rows: int) -> Graph:
    """A loop over chunks as large as those of a layer, whose body only negates them."""
    b = Builder("walk")
    start, walked = b.input("start", "f32[1, 8]"), b.input("x", f"f32[1, {rows // CHUNK}, {CHUNK}, {WIDE}]")
    body = b.subgraph()
    state, x = body.input("state", start.type), body.input("item", f"f32[1, {CHUNK}, {WIDE}]")
    _, negated = b.results("scan", start, walked, carries=1, axis=1, body=body.finish(state, body.neg(x)))
    return b.finish(negated)


def _running_sum(rows: int) -> Graph:
    b = Builder("running_sum")
    states = b.input("x", f"f32[1, {rows // CHUNK}, {KEY}, {WIDE}]")
    return b.finish(_largest(b, b.cumsum(states, axis=1, exclusive=True)))


def _kernels(rows: int, dtypes: tuple[str, ...], *, fused: bool = False) -> tuple[MicroKernel, ...]:
    """All micro-kernels, for `rows` tokens, with products in these narrow dtypes.

    Args:
        rows: tokens of a run.
        dtypes: narrow types that the target may compute in.
        fused: whether a chain of elementwise ops becomes one kernel. It then reads and writes memory once, and XLA does
            not vectorise long ones. So chains are short, and nothing tells how fast the cache is.
    """
    sums, large, functions, among = (1, 1, 2, rows) if fused else (8, 4, CHAIN, CHUNK)
    near = (
        MicroKernel("near_product", "near", _near_product),
        MicroKernel("near_sums", "cache_bandwidth", _chain("near", f"{CHUNK}, {WIDE}", CHAIN, _add)),
    )
    narrow = (MicroKernel(dtype, f"peak.{dtype}", _narrow_product(rows // 2, dtype)) for dtype in dtypes)
    chunks = rows // CHUNK
    return (
        MicroKernel("product", "peak.f32", _product("product", f"{rows}, {NARROW}", f"{NARROW}, {WIDE}")),
        *narrow,
        MicroKernel("chunks", "fill", _product("chunks", f"{chunks}, {CHUNK}, {KEY}", f"{chunks}, {KEY}, {WIDE}")),
        *(() if fused else near),
        MicroKernel("sums", "bandwidth", _chain("sums", f"{rows}, {WIDE}", sums, _add)),
        MicroKernel("large", "fresh", _chain("large", f"{4 * rows}, {NARROW}", large, _add)),
        MicroKernel("functions", "vector", _chain("functions", f"{among}, {WIDE}", functions, _silu)),
        MicroKernel("nothing", "call", _chain("nothing", f"{TINY}, {TINY}", 1, _add)),
        MicroKernel("small", "launch", _chain("small", f"{TINY}, {TINY}", 4 * CHAIN, lambda b, x, y: b.matmul(x, y))),
        MicroKernel("loop", "step", _loop),
        MicroKernel("walk", "slowdown.scan", partial(_walk, rows)),
        MicroKernel("running_sum", "slowdown.cumsum", partial(_running_sum, rows)),
    )


NARROW_TYPES = ("f16", "bf16")
PROCESSOR, CARD = _kernels(ROWS, NARROW_TYPES), _kernels(CARD_ROWS, NARROW_TYPES)
FUSING_PROCESSOR = _kernels(ROWS, NARROW_TYPES, fused=True)
TOLD = frozenset(kernel.tells for kernel in (*PROCESSOR, *FUSING_PROCESSOR, *CARD))
"""The numbers that calibration may fit."""


def kernels(record: Target) -> tuple[MicroKernel, ...]:
    """The micro-kernels for a target: those of a GPU, or of a processor where elementwise ops fuse or do not."""
    if record.device != "cpu":
        return CARD
    return FUSING_PROCESSOR if record.fuses else PROCESSOR
