"""The processor and cores of this machine, and its first GPU."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia")


@dataclass(frozen=True)
class Card:
    """An accelerator.

    Args:
        name: the name in its driver, such as `NVIDIA H100 80GB HBM3`.
        memory: its memory in bytes.
    """

    name: str
    memory: int


def available_cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def first_card() -> Card | None:
    """The first visible NVIDIA GPU, or None. It asks the driver, so no framework is loaded."""
    try:
        name, _, mebibytes = _asked("name,memory.total").rpartition(",")
        return Card(name.strip(), int(mebibytes) << 20)
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return None


@cache
def compute_capability() -> tuple[int, int] | None:
    """The compute capability of the first visible NVIDIA GPU, such as (9, 0); None if it is not known."""
    try:
        major, _, minor = _asked("compute_cap").partition(".")
        return int(major), int(minor)
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return None


def _asked(fields: str) -> str:
    """What the driver says of the first visible GPU. Raises OSError, SubprocessError, IndexError."""
    if not DRIVER.exists():
        raise FileNotFoundError(DRIVER)
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    command = ("nvidia-smi", "-i", first, f"--query-gpu={fields}", "--format=csv,noheader,nounits")
    query = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return query.stdout.splitlines()[0]


def device_identity(device: str = "cpu") -> str:
    """The identity of a device: the processor and its available cores, and for other devices than `cpu` the GPU."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    processor = f"{name} x{available_cores()}"
    card = None if device == "cpu" else first_card()
    return processor if card is None else f"{processor}, {card.name}"
