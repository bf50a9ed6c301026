"""flashir tune."""

from __future__ import annotations


def tune() -> None:
    """(in the making)"""
