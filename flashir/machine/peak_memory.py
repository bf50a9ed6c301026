"""Free and peak memory of this machine, its accelerators, and this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from flashir.machine.memory import total_memory

RESET_PEAK = "5"  # written to /proc/self/clear_refs, Linux 4.0 and later


@runtime_checkable
class Metered(Protocol):
    """A backend that reports the peak memory of a device."""

    def peak_bytes(self, device: str) -> int | None:
        """The peak memory of this process on the device in bytes; None if unknown. Raises TargetError."""
        ...


def free_memory() -> int:
    """The free main memory in bytes, or all of it if the system does not report it."""
    free = _kibibytes(Path("/proc/meminfo"), "MemAvailable") or total_memory()
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else max(0, min(free, limit - used))


def resident_memory() -> int | None:
    """The main memory of this process in bytes; None on systems other than Linux."""
    return _kibibytes(Path("/proc/self/status"), "VmRSS")


def peak_memory() -> int | None:
    """The peak main memory of this process in bytes; None if the system does not report it."""
    peak = _kibibytes(Path("/proc/self/status"), "VmHWM")  # getrusage on Linux starts from the peak of the parent
    if peak is not None or sys.platform == "win32":
        return peak
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def forget_peak() -> None:
    """Reset `peak_memory` to the current use. Does nothing on systems other than Linux."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")


def peak_meter(target: str) -> Callable[[], int | None]:
    """A function that returns the peak memory of this process on the device of a target, in bytes.

    `forget_peak` resets only that of main memory. Raises TargetError if the device is not available.
    """
    from flashir.backends.registry import backend_of  # imported here so that memory queries load no backend
    from flashir.machine.device import available_device

    device, backend = available_device(target), backend_of(target)
    if device == "cpu":
        return peak_memory
    return partial(backend.peak_bytes, device) if isinstance(backend, Metered) else lambda: None


def _kibibytes(path: Path, name: str) -> int | None:
    """The bytes in a line such as `MemAvailable:   1234 kB` of a Linux file."""
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def _number(path: Path) -> int | None:
    text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None
