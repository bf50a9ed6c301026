"""The devices of JAX as targets name them. This process may be one of several, on one host or many."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import jax

from flashir.errors import TargetError
from flashir.machine.processes import Processes
from flashir_jax.forks import works

PLATFORMS = {"cpu": "cpu", "cuda": "cuda", "tpu": "tpu"}
"""The JAX platform of a device, by how the name of the device begins."""
ADDRESS = "JAX_COORDINATOR_ADDRESS"


def platform_of(device: str) -> str:
    """`tpu-v4` -> `tpu`. Raises TargetError where JAX has no such platform."""
    platform = PLATFORMS.get(device.partition("-")[0])
    if platform is None:
        raise TargetError(f"JAX has no device {device!r}", where="jax", hint="use cpu, cuda, or a tpu such as tpu-v4")
    return platform


def device_names() -> tuple[str, ...]:
    """The devices that JAX finds on this machine, as targets name them: `cpu`, `cuda`, `tpu-v4`."""
    works()
    return tuple(name for platform in PLATFORMS.values() if (name := _name(platform)) is not None)


def _name(platform: str) -> str | None:
    try:
        first = _local(platform)[0]
    except RuntimeError:
        return None
    return first.device_kind.lower().replace(" ", "-") if platform == "tpu" else platform


def device_of(name: str) -> Any:
    """The first JAX device of that name in this process. Raises TargetError where there is none."""
    return _found(name, _local)[0]


def devices_of(name: str) -> list[Any]:
    """All JAX devices of that name, in all processes. Raises TargetError where there is none."""
    return _found(name, _everywhere)


def peak_bytes(name: str) -> int | None:
    """The most bytes that were allocated on a device; None where it keeps no account. Raises TargetError."""
    found: int | None = (device_of(name).memory_stats() or {}).get("peak_bytes_in_use")
    return found


def _found(name: str, where: Any) -> list[Any]:
    platform = platform_of(name)
    works()
    try:
        found: list[Any] = where(platform)
    except RuntimeError as error:
        raise TargetError(
            f"JAX has no device {name!r} here: {error}", where="jax", hint="choose one that `flashir targets` lists"
        ) from error
    return found


def _local(platform: str) -> list[Any]:
    join(Processes.here())
    found: list[Any] = jax.local_devices(backend=platform)
    return found


def _everywhere(platform: str) -> list[Any]:
    join(Processes.here())
    found: list[Any] = jax.devices(platform)
    return found


@cache
def join(processes: Processes) -> None:
    """Find the other processes, where there are any. JAX wants that done before it looks at a device.

    Raises TargetError where they are not found.
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
    """Where the first process listens: the port after MASTER_PORT, for at that one torchrun does."""
    given = os.environ.get(ADDRESS)
    if given is not None:
        return given
    host, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    if not (host and port.isdecimal()):
        raise TargetError(
            "several processes, and none knows where the first one listens",
            where="jax",
            hint=f"set {ADDRESS} to host:port, or start them by torchrun",
        )
    return f"{host}:{int(port) + 1}"
