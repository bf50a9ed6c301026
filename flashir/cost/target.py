"""Target: what the cost model knows of a device, as one frozen record.

Every number in a record stands beside its source: a data sheet, a measurement, or a stated assumption.
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
"""Bytes from which on the allocator of a processor returns a tensor to the system: glibc's largest threshold."""

# Per number of a record: the smallest and the largest value that a real device could have.
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
        title: for people.
        peak: multiply-and-add operations a second of one device in matrix products, per element type.
        efficiency: the share of `peak` that a large product reaches.
        tile: the sizes that m, n, k of a product are rounded up to.
        vector: elementwise operations a second.
        bandwidth: bytes a second to and from the main memory.
        cache: bytes that fit on the chip; tensors up to this size move at `cache_bandwidth`.
        cache_bandwidth: bytes a second to and from the memory on the chip.
        overlap: the share of the shorter of arithmetic and traffic that hides behind the longer.
        memory: bytes of main memory of one device.
        launch: seconds that starting one kernel takes.
        step: seconds that one dependent step of a loop takes beside its work.
        fuses: whether elementwise ops join their neighbours in one kernel.
        epilogues: whether they join the product that they follow, too: XLA does so, `torch.compile` calls a library.
        recomputes: whether values that a training step has no room to keep are computed again.
        all_reduce: bytes a second in a sum over all devices.
        slowdown: how many times longer an op takes than its traffic says, per op; for `scan`, how many passes over
            what it walks and stacks it takes beside its body.
        call: seconds that one run takes, whatever it runs.
        fill: what packing operands and storing results of products take, as if m and k were larger by so much.
        near: how many times as fast as `peak` products are whose operands and result fit in the cache.
        fresh: bytes a second at which the system maps memory for a large tensor, beside its traffic; see `LARGE`.
        cores: on which `peak` and `vector` were measured, where they scale with the cores at hand; 0 where not.
        devices: how many work together, each on its share of the batch.
        sources: where each number comes from, by its name.
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
        """Whether this is the machine at hand, whatever it is."""
        return self.device in ("cpu", "cuda")

    def number(self, name: str) -> float:
        """One number of the record by name, such as `bandwidth` or `peak.f32`; what counts for it where it has none."""
        table, _, key = name.partition(".")
        if table == "peak":
            return float(self.peak.get(key, self.peak["f32"]))
        return float(self.slowdown.get(key, 1.0) if table == "slowdown" else getattr(self, table))

    def scaled_to(self, cores: int) -> Target:
        """The record for a machine with that many cores, where it scales with them."""
        if not self.cores or self.cores == cores:
            return self
        more = cores / self.cores
        peak = MappingProxyType({name: rate * more for name, rate in self.peak.items()})
        return replace(self, peak=peak, vector=self.vector * more, cores=cores)


def split_name(name: str) -> tuple[str, str, int]:
    """`jax:tpu-v4x32` -> jax, tpu-v4, 32. Raises TargetError."""
    found = _NAME.fullmatch(name)
    digits = (found["devices"] or "1") if found else ""
    devices = int(digits) if 1 <= len(digits) <= 6 else 0
    if found is None or not 1 <= devices <= MOST_DEVICES:
        raise TargetError(
            f"a target must look like 'onnx:cpu' or 'jax:tpu-v4x32', got {name!r}",
            hint="`flashir targets` lists them all",
        )
    return found["backend"], found["device"], devices
