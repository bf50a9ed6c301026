"""Memory of this machine, of its accelerators, and of this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from flashir.machine.memory import memory_at_hand

RESET_PEAK = "5"  # to /proc/self/clear_refs, of Linux since 4.0


@runtime_checkable
class Metered(Protocol):
    """A backend that can tell how much of a device's own memory it has had in use."""

    def peak_bytes(self, device: str) -> int | None:
        """The most that this process has had there at once; None where the device does not say. Raises TargetError."""
        ...


def free_memory() -> int:
    """Bytes of main memory that a new process could have; all of it where the system does not say."""
    free = _kibibytes(Path("/proc/meminfo"), "MemAvailable") or memory_at_hand()
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else max(0, min(free, limit - used))


def resident_memory() -> int | None:
    """Bytes of main memory that this process has now; None where the system does not say, which is all but Linux."""
    return _kibibytes(Path("/proc/self/status"), "VmRSS")


def peak_memory() -> int | None:
    """The most bytes of main memory that this process has had; None where the system does not say."""
    found = _kibibytes(Path("/proc/self/status"), "VmHWM")  # Linux's getrusage begins with the parent's
    if found is not None or sys.platform == "win32":
        return found
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def forget_peak() -> None:
    """Let `peak_memory` begin anew, from what is in use now. Only Linux can; elsewhere nothing happens."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")


def peak_meter(target: str) -> Callable[[], int | None]:
    """What tells the most that this process has had of the memory that a target computes in.

    Only that of the main memory begins anew where it is forgotten. Raises TargetError where the target is not at hand.
    """
    from flashir.backends.registry import backend_of  # what only asks for the memory of this process needs none
    from flashir.machine.device import device_at_hand

    device, found = device_at_hand(target), backend_of(target)
    if device == "cpu":
        return peak_memory
    return partial(found.peak_bytes, device) if isinstance(found, Metered) else lambda: None


def _kibibytes(path: Path, name: str) -> int | None:
    """Bytes, from the line `MemAvailable:   1234 kB` of a file of Linux."""
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def _number(path: Path) -> int | None:
    text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None
