"""JAX devices by the names of targets, in one or several processes on one or many hosts."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import jax

from flashir.errors import TargetError
from flashir.machine.processes import Processes
from flashir_jax.forks import works

PLATFORMS = {"cpu": "cpu", "cuda": "cuda", "tpu": "tpu"}
"""The JAX platform of a device, by the start of its name."""
ADDRESS = "JAX_COORDINATOR_ADDRESS"


def platform_of(device: str) -> str:
    """`tpu-v4` -> `tpu`. Raises TargetError if JAX has no such platform."""
    platform = PLATFORMS.get(device.partition("-")[0])
    if platform is None:
        raise TargetError(f"JAX has no device {device!r}", where="jax", hint="use cpu, cuda, or a tpu such as tpu-v4")
    return platform


def device_names() -> tuple[str, ...]:
    """The devices that JAX finds on this machine, such as `cpu`, `cuda`, `tpu-v4`."""
    works()
    return tuple(name for platform in PLATFORMS.values() if (name := _name(platform)) is not None)


def _name(platform: str) -> str | None:
    try:
        first = _local(platform)[0]
    except RuntimeError:
        return None
    return first.device_kind.lower().replace(" ", "-") if platform == "tpu" else platform


def device_of(name: str) -> Any:
    """The first JAX device of this name in this process. Raises TargetError if there is none."""
    return _lookup(name, _local)[0]


def devices_of(name: str) -> list[Any]:
    """All JAX devices of this name in all processes. Raises TargetError if there is none."""
    return _lookup(name, _everywhere)


def peak_bytes(name: str) -> int | None:
    """The peak allocated memory of a device in bytes; None if unknown. Raises TargetError."""
    peak: int | None = (device_of(name).memory_stats() or {}).get("peak_bytes_in_use")
    return peak


def _lookup(name: str, where: Any) -> list[Any]:
    platform = platform_of(name)
    works()
    try:
        devices: list[Any] = where(platform)
    except RuntimeError as error:
        raise TargetError(
            f"JAX has no device {name!r} here: {error}", where="jax", hint="choose one that `flashir targets` lists"
        ) from error
    return devices


def _local(platform: str) -> list[Any]:
    join(Processes.here())
    devices: list[Any] = jax.local_devices(backend=platform)
    return devices


def _everywhere(platform: str) -> list[Any]:
    join(Processes.here())
    devices: list[Any] = jax.devices(platform)
    return devices


@cache
def join(processes: Processes) -> None:
    """Connect to the other processes, if there are any. JAX requires this before it initialises devices.

    Raises TargetError if they are not found.
    """
    if processes.count == 1:
        return
    try:
        jax.distributed.initialize(_coordinator(), processes.count, processes.rank)
    except (RuntimeError, ValueError) as error:
        raise TargetError(
            f"process {processes.rank} of {processes.count} does not find the others: {error}", where="jax"
        ) from error


def _coordinator() -> str:
    """The address of the first process: the port after MASTER_PORT, which torchrun uses itself."""
    configured = os.environ.get(ADDRESS)
    if configured is not None:
        return configured
    host, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    if not (host and port.isdecimal()):
        raise TargetError(
            "there are several processes, but no address of the first one",
            where="jax",
            hint=f"set {ADDRESS} to host:port, or start them with torchrun",
        )
    return f"{host}:{int(port) + 1}"
