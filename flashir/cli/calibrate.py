"""flashir calibrate."""

from __future__ import annotations


def calibrate() -> None:
    """(in the making)"""
