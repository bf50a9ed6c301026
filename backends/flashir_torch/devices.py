"""PyTorch devices by the names of targets."""

from __future__ import annotations

import os
import re

import torch

from flashir.errors import TargetError

CARDS = ("a10", "a100", "h100", "h200", "l4", "l40s", "mi300x", "rtx-4090", "v100")
"""GPUs with a target record, by a word of their full names."""

if hasattr(os, "register_at_fork"):
    # forks lack the OpenMP threads of this process, and parallel work would hang
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def device_names() -> tuple[str, ...]:
    """`cpu`, and with a GPU also `cuda` and the name of its record, such as `h100`."""
    if not torch.cuda.is_available():
        return ("cpu",)
    full = torch.cuda.get_device_name().lower().replace("rtx ", "rtx-")
    return ("cpu", "cuda", *(card for card in CARDS if re.search(rf"\b{card}\b(?! laptop)", full)))


def device_of(name: str) -> torch.device:
    """The device of this name. Raises TargetError if it is not available."""
    available = device_names()
    if name not in available:
        raise TargetError(
            f"PyTorch has no device {name!r} here, only {', '.join(available)}",
            where="torch",
            hint="choose one that `flashir targets` lists",
        )
    return torch.device("cpu" if name == "cpu" else "cuda")


def peak_bytes(name: str) -> int | None:
    """The peak allocated memory of a GPU in bytes; None for the CPU. Raises TargetError."""
    return int(torch.cuda.max_memory_allocated()) if device_of(name).type == "cuda" else None
