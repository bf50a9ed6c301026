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


KNOWN: list[tuple[object, Candidate]] = []
"""What a prediction depends on, and the candidate."""


@pytest.fixture(scope="module", autouse=True)
def _predictions() -> Iterator[None]:
    """The tests of this folder plan the same few models again and again, and look at what follows."""
    predict = Predictor.predict

    def remembered(self: Predictor, graph: Graph, settings: Settings) -> Candidate:
        key = (self.target, self.workload, self.portable, settings, graph)
        candidate = next((earlier for known, earlier in KNOWN if known == key), None)
        if candidate is None:
            candidate = predict(self, graph, settings)
            KNOWN.append((key, candidate))
        return candidate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "predict", remembered)
        yield
