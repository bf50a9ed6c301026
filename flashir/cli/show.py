"""flashir show."""

from __future__ import annotations


def show() -> None:
    """(in the making)"""
