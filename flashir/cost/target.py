"""Target: a frozen record of the numbers that the cost model uses for a device.

Every number names its source: a data sheet, a measurement, or a stated assumption.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from flashir.errors import TargetError

_NAME = re.compile(r"(?P<backend>[a-z0-9_]+):(?P<device>[a-z0-9_-]+?)(x(?P<devices>[0-9]+))?")
MOST_DEVICES = 2**16
LARGE = 2**25
"""Tensors of at least this many bytes are returned to the system on free: glibc's largest mmap threshold."""

# The smallest and the largest plausible value of each number of a record.
RANGES: dict[str, tuple[float, float]] = {
    "peak": (1e9, 1e18),
    "vector": (1e8, 1e17),
    "bandwidth": (1e8, 1e15),
    "cache_bandwidth": (1e8, 1e16),
    "cache": (1e4, 1e11),
    "memory": (2**26, 2**50),
    "launch": (0, 1e-2),
    "step": (0, 1e-2),
    "efficiency": (0.01, 1),
    "overlap": (0, 1),
    "all_reduce": (1e6, 1e15),
    "call": (0, 1e-2),
    "fill": (0, 4096),
    "near": (1, 16),
    "fresh": (1e8, 1e18),
    "slowdown": (0.01, 1e6),
    "tile": (1, 4096),
    "cores": (1, 2**20),
}
TABLES = ("peak", "slowdown")
FLAGS = ("fuses", "epilogues", "recomputes")
OPTIONAL = ("slowdown", "cores", "call", "fill", "near", "fresh", "epilogues")


@dataclass(frozen=True)
class Target:
    """A backend on a device.

    Args:
        name: `backend:device`, or `backend:devicexN` for N devices.
        title: a display name.
        peak: floating-point operations per second of one device in matrix products, per dtype.
        efficiency: the fraction of `peak` that a large product reaches.
        tile: the multiples that m, n, k of a product are rounded up to.
        vector: elementwise operations per second.
        bandwidth: bytes per second of main memory.
        cache: bytes of on-chip memory; tensors up to this size move at `cache_bandwidth`.
        cache_bandwidth: bytes per second of on-chip memory.
        overlap: the fraction of the shorter of arithmetic and traffic that is hidden behind the longer.
        memory: bytes of main memory of one device.
        launch: seconds to launch one kernel.
        step: seconds of overhead per sequential step of a loop.
        fuses: whether elementwise ops are fused with their neighbours.
        epilogues: whether they are fused with the product that they follow. XLA does so; `torch.compile` calls a
            library for the product; OpenVINO fuses with products alone.
        recomputes: whether a training step recomputes values that do not fit in memory.
        all_reduce: bytes per second of an all-reduce over all devices.
        slowdown: per op, a factor on the time of a kernel with it; of a target that does not fuse, of a kernel that
            begins with it. For `scan`, the number of passes over what it slices and stacks, in addition to its body.
        call: seconds of overhead per run.
        fill: the cost of packing operands and storing results of products, as a number of further rows and columns that
            the operands m n and k n count as.
        near: the speed relative to `peak` of products whose operands and result fit in the cache.
        fresh: bytes per second at which the system maps memory for a large tensor; see `LARGE`.
        cores: the number of cores behind `peak` and `vector`, if they scale with it; otherwise 0.
        devices: the number of devices, each with its share of the batch.
        sources: the source of each number, by name.
    """

    name: str
    title: str
    peak: Mapping[str, float]
    efficiency: float
    tile: tuple[int, int, int]
    vector: float
    bandwidth: float
    cache: float
    cache_bandwidth: float
    overlap: float
    memory: float
    launch: float
    step: float
    fuses: bool
    recomputes: bool
    all_reduce: float
    slowdown: Mapping[str, float] = field(default_factory=dict)
    call: float = 0
    fill: float = 0
    near: float = 1
    fresh: float = 1e18
    epilogues: bool = True
    cores: float = 0
    devices: int = 1
    sources: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def backend(self) -> str:
        """The part of the name before the colon."""
        return self.name.partition(":")[0]

    @property
    def device(self) -> str:
        """The part of the name after the colon, without the count."""
        return split_name(self.name)[1]

    @property
    def is_here(self) -> bool:
        """Whether this is a generic local device, not a specific model."""
        return self.device in ("cpu", "cuda")

    def number(self, name: str) -> float:
        """A number by name, such as `bandwidth` or `peak.f32`. The default is the f32 peak, or slowdown 1."""
        table, _, key = name.partition(".")
        if table == "peak":
            return float(self.peak.get(key, self.peak["f32"]))
        return float(self.slowdown.get(key, 1.0) if table == "slowdown" else getattr(self, table))

    def scaled_to(self, cores: int) -> Target:
        """The record for a machine with this many cores, if it scales with them."""
        if not self.cores or self.cores == cores:
            return self
        factor = cores / self.cores
        peak = MappingProxyType({name: rate * factor for name, rate in self.peak.items()})
        return replace(self, peak=peak, vector=self.vector * factor, cores=cores)


def split_name(name: str) -> tuple[str, str, int]:
    """`jax:tpu-v4x32` -> jax, tpu-v4, 32. Raises TargetError."""
    match = _NAME.fullmatch(name)
    digits = (match["devices"] or "1") if match else ""
    devices = int(digits) if 1 <= len(digits) <= 6 else 0
    if match is None or not 1 <= devices <= MOST_DEVICES:
        raise TargetError(
            f"a target must look like 'onnx:cpu' or 'jax:tpu-v4x32', got {name!r}",
            hint="`flashir targets` lists them all",
        )
    return match["backend"], match["device"], devices
