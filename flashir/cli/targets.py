"""flashir targets."""

from __future__ import annotations


def targets() -> None:
    """(in the making)"""
