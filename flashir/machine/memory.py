"""The main memory of this machine, and the error if something does not fit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flashir.errors import FlashirError


def total_memory() -> int:
    """The main memory of this machine in bytes, or the limit of its container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 * 2**30
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(total, int(text)) if text.isdigit() else total


def gigabytes(count: float) -> str:
    """A number of bytes as text."""
    return f"{count / 2**30:.2f} GiB"


@contextmanager
def memory_for(what: str, needed: int, error: type[FlashirError], *, hint: str = "") -> Iterator[None]:
    """Guard work that needs memory: raise `error` before it if the machine has too little, or when it runs out.

    Args:
        what: what takes the memory, in the plural.
        needed: bytes.
        error: the error to raise.
        hint: how to fix it.
    """
    memory = total_memory()
    if needed > memory:
        raise error(f"{what} take {gigabytes(needed)}, this machine has {gigabytes(memory)}", hint=hint)
    try:
        yield
    except MemoryError:
        raise error(f"{what} take {gigabytes(needed)}, more than is free", hint=hint) from None
