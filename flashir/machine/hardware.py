"""The machine at hand: its processor, cores and memory, and its first card."""

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
        name: as its driver has it, such as `NVIDIA H100 80GB HBM3`.
        memory: bytes.
    """

    name: str
    memory: int


def cores_at_hand() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def card_at_hand() -> Card | None:
    """The first NVIDIA card that may be used, by its driver: no framework need be loaded. None where there is none."""
    if not DRIVER.exists():
        return None
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    command = ("nvidia-smi", "-i", first, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    try:
        made = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        name, _, mebibytes = made.stdout.splitlines()[0].rpartition(",")
        return Card(name.strip(), int(mebibytes) << 20)
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return None


def device_identity(device: str = "cpu") -> str:
    """What a device of this machine is: the processor, and how many of its cores may be used; else the card, too."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    processor = f"{name} x{cores_at_hand()}"
    card = None if device == "cpu" else card_at_hand()
    return processor if card is None else f"{processor}, {card.name}"
