"""A cache of its own for every test: none may touch the user's. Predictions are made once for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flashir.ir import Graph
from flashir.planning.candidates import Candidate
from flashir.planning.predict import Predictor
from flashir.transforms.settle_choices import Settings


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FLASHIR_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def _predictions() -> Iterator[None]:
    """The tests of this folder plan the same few models again and again, and look at what follows."""
    known: list[tuple[Predictor, Graph, Settings, Candidate]] = []
    predict = Predictor.predict

    def remembered(self: Predictor, graph: Graph, settings: Settings) -> Candidate:
        earlier = (row[-1] for row in known if row[:-1] == (self, graph, settings))
        candidate = next(earlier, None)
        if candidate is None:
            candidate = predict(self, graph, settings)
            known.append((self, graph, settings, candidate))
        return candidate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "predict", remembered)
        yield
