"""Target: what the cost model knows of a device, as one frozen record read from TOML.

Every number in a record stands beside its source: a data sheet, a measurement, or a stated assumption.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flashir.errors import TargetError, suggest

RECORDS = Path(__file__).parent / "targets"
_NAME = re.compile(r"(?P<backend>[a-z0-9_]+):(?P<device>[a-z0-9_-]+?)(x(?P<devices>\d+))?")
MOST_DEVICES = 2**16

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
    "slowdown": (0.01, 1e6),
    "tile": (1, 4096),
    "cores": (1, 2**20),
}
TABLES = ("peak", "slowdown")


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
        all_reduce: bytes a second in a sum over all devices.
        slowdown: how many times longer an op takes than its traffic says, per op; for `scan`, how many passes over
            what it walks and stacks it takes beside its body.
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
    all_reduce: float
    slowdown: Mapping[str, float] = field(default_factory=dict)
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
        return _split(self.name)[1]

    @property
    def is_here(self) -> bool:
        """Whether this is the machine at hand, whatever it is."""
        return self.device in ("cpu", "cuda")

    def number(self, name: str) -> float:
        """One number of the record by name, such as `bandwidth` or `peak.f32`."""
        table, _, key = name.partition(".")
        return float(getattr(self, table)[key] if key else getattr(self, table))

    def scaled_to(self, cores: int) -> Target:
        """The record for a machine with that many cores, where it scales with them."""
        if not self.cores or self.cores == cores:
            return self
        more = cores / self.cores
        peak = MappingProxyType({name: rate * more for name, rate in self.peak.items()})
        return replace(self, peak=peak, vector=self.vector * more, cores=cores)


def target(name: str) -> Target:
    """The record of a target: for the machine at hand as last calibrated, else as shipped.

    Args:
        name: such as `onnx:cpu`, `torch:h200` or `jax:tpu-v4x32`.

    Raises:
        TargetError: the name is malformed or unknown, or the record is.
    """
    backend, device, devices = _split(name)
    key = f"{backend}:{device}"
    known = target_names()
    if key not in known:
        raise TargetError(f"unknown target {key!r}{suggest(key, known)}", mend="`flashir targets` lists them all")
    found = _record(key)
    if found.is_here:
        from flashir.cost.profile import at_hand

        found = at_hand(found)
    if found.is_here and devices > 1:
        raise TargetError(f"{key} is the machine at hand, of which there is one, got {name!r}")
    return replace(found, name=name, devices=devices)


def target_names() -> tuple[str, ...]:
    """Every target with a record, without counts of devices."""
    return tuple(sorted(path.stem.replace("-", ":", 1) for path in RECORDS.glob("*.toml")))


def parse_record(text: str, where: str) -> Target:
    """A record from TOML text, each number as `{value = .., source = ".."}`.

    Raises:
        TargetError: every number that is missing, negative, absurd or without a source.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"the record is not TOML: {error}", where=where) from None
    problems: list[str] = []
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in ("name", "title", "fuses"):
        wanted = bool if name == "fuses" else str
        if not isinstance(table.get(name), wanted):
            problems.append(f"{name} must be a {wanted.__name__}, got {table.get(name)!r}")
        values[name] = table.pop(name, None)
    for spec in fields(Target):
        if spec.name in RANGES and spec.name in table:
            values[spec.name] = _numbers(spec.name, table.pop(spec.name), problems, sources)
        elif spec.name in RANGES and spec.name not in ("slowdown", "cores"):
            problems.append(f"{spec.name} is missing")
    problems += [f"there is no number {name!r}{suggest(name, RANGES)}" for name in table]
    if isinstance(values["name"], str) and not _NAME.fullmatch(values["name"]):
        problems.append(f"name must look like 'onnx:cpu', got {values['name']!r}")
    if problems:
        raise TargetError(problems, where=where)
    return Target(**values, sources=MappingProxyType(sources))


def _numbers(name: str, given: Any, problems: list[str], sources: dict[str, str]) -> Any:
    """A number, a table of numbers, or the three of a tile."""
    if name in TABLES:
        if not isinstance(given, dict):
            problems.append(f"{name} must be a table, got {given!r}")
            return {}
        return MappingProxyType(
            {key: _number(f"{name}.{key}", RANGES[name], each, problems, sources) for key, each in given.items()}
        )
    if name == "tile":
        listed = given.get("value") if isinstance(given, dict) else None
        if not isinstance(listed, list) or len(listed) != 3:
            problems.append(f"tile must hold three sizes, m, n and k, got {given!r}")
            return (1, 1, 1)
        return tuple(int(_number(name, RANGES[name], {**given, "value": n}, problems, sources)) for n in listed)
    return _number(name, RANGES[name], given, problems, sources)


def _number(name: str, bounds: tuple[float, float], given: Any, problems: list[str], sources: dict[str, str]) -> float:
    if not isinstance(given, dict) or set(given) != {"value", "source"}:
        problems.append(f'{name} must be {{value = .., source = ".."}}, got {given!r}')
        return 1.0
    value, source = given["value"], given["source"]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not bounds[0] <= value <= bounds[1]:
        problems.append(f"{name} must be a number from {bounds[0]:g} to {bounds[1]:g}, got {value!r}")
        return 1.0
    if not isinstance(source, str) or not source.strip():
        problems.append(f"{name} must say its source")
        return 1.0
    sources[name] = source
    return float(value)


def _split(name: str) -> tuple[str, str, int]:
    """`jax:tpu-v4x32` -> jax, tpu-v4, 32. Raises TargetError."""
    found = _NAME.fullmatch(name)
    devices = int(found["devices"] or 1) if found else 0
    if found is None or not 1 <= devices <= MOST_DEVICES:
        raise TargetError(
            f"a target must look like 'onnx:cpu' or 'jax:tpu-v4x32', got {name!r}",
            mend="`flashir targets` lists them all",
        )
    return found["backend"], found["device"], devices


@cache
def _record(key: str) -> Target:
    path = RECORDS / f"{key.replace(':', '-')}.toml"
    return parse_record(path.read_text(encoding="utf-8"), path.name)


def cores_at_hand() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_at_hand() -> int:
    """Bytes of main memory of this machine; where a container is limited, its limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 * 2**30
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(total, int(text)) if text.isdigit() else total
