"""Main memory of this machine, and what does not fit into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flashir.errors import FlashirError


def memory_at_hand() -> int:
    """Bytes of main memory of this machine; where a container is limited, its limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 * 2**30
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(total, int(text)) if text.isdigit() else total


def gigabytes(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.2f} GiB"


@contextmanager
def memory_for(what: str, needed: int, error: type[FlashirError], *, hint: str = "") -> Iterator[None]:
    """Guards work that takes memory: raises `error` before it where the machine has less, and where it runs out.

    Args:
        what: takes the memory, in the plural.
        needed: bytes.
        error: what to raise.
        hint: what to do.
    """
    memory = memory_at_hand()
    if needed > memory:
        raise error(f"{what} take {gigabytes(needed)}, this machine has {gigabytes(memory)}", hint=hint)
    try:
        yield
    except MemoryError:
        raise error(f"{what} take {gigabytes(needed)}, more than there is room for", hint=hint) from None
