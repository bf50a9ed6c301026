"""flashir check."""

from __future__ import annotations


def check() -> None:
    """(in the making)"""
