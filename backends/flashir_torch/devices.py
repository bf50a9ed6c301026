"""Devices as targets name them, and as PyTorch does."""

from __future__ import annotations

import os

import torch

from flashir.errors import TargetError

CARDS = ("a100", "h100", "h200", "v100")
"""The cards that have a record of their own, by what their full names contain."""

if hasattr(os, "register_at_fork"):
    # OpenMP's threads are in no fork of this process, and work that is shared with them would wait for ever
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def device_names() -> tuple[str, ...]:
    """`cpu`; with a card, `cuda` too, and the name of its record, such as `h100`."""
    if not torch.cuda.is_available():
        return ("cpu",)
    full = torch.cuda.get_device_name().lower()
    return ("cpu", "cuda", *(card for card in CARDS if card in full))


def device_of(name: str) -> torch.device:
    """The device of that name. Raises TargetError where it is not at hand."""
    at_hand = device_names()
    if name not in at_hand:
        raise TargetError(
            f"PyTorch has no device {name!r} here, only {', '.join(at_hand)}",
            where="torch",
            hint="choose one that `flashir targets` lists",
        )
    return torch.device("cpu" if name == "cpu" else "cuda")


def peak_bytes(name: str) -> int | None:
    """The most bytes that were allocated on a card; None for the processor. Raises TargetError."""
    return int(torch.cuda.max_memory_allocated()) if device_of(name).type == "cuda" else None
