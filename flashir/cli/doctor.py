"""flashir doctor."""

from __future__ import annotations


def doctor() -> None:
    """(in the making)"""
