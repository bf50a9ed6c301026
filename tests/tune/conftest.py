"""A cache of its own for every test: none may touch the user's. Predictions are made once for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import predictions_made_once


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FLASHIR_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def _predictions() -> Iterator[None]:
    """These tests plan the same few models again and again, and look at what follows."""
    with predictions_made_once():
        yield
