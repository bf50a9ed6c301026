"""A cache of its own for every test: none may touch the user's."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FLASHIR_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _little_is_looked_through() -> None:
    """Closing a candidate collects garbage: Python need not walk through all that earlier tests left."""
    gc.freeze()
