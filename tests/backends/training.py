"""What the tests of training share: small models, and batches in parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

import flashir
from flashir.backends.training import NO_LABEL, Batch
from flashir.ir import Graph

RATE = 7e-4
VOCAB = 31
LENGTH = 40
SYSTEMS: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("flash", {"task": task}) for task in ("lm", "mlm")),
    ("flash", {"segments": True, "cumsum": "matmul"}),
    ("flash-quad", {"max_len": 64}),
    ("flash", {"use_global": False}),
    ("flash", {"use_local": False, "cumsum": "scan"}),
    *((name, {}) for name in ("transformer", "transformer+", "transformer++", "combiner", "performer")),
    ("mc-transformer++", {}),
)


def small(system: str = "flash", **settings: Any) -> Graph:
    """Two layers of a system, chosen for what the batches of `drawn` are."""
    made = flashir.model(system, size="tiny", **{"vocab": VOCAB, **settings})
    return flashir.plan(made, "torch:cpu", batch=2, seq_len=LENGTH).graph


def drawn(model: Graph, seed: int = 0, rows: int = 4) -> Batch:
    """Tokens one or two after the other, a third without a label; segments where the model takes them."""
    random = np.random.default_rng(seed)
    ids = np.cumsum(random.integers(1, 3, (rows, LENGTH + 1)), axis=1) % VOCAB
    labels = np.where(random.random((rows, LENGTH)) < 2 / 3, ids[:, 1:], NO_LABEL)
    segments = np.sort(random.integers(0, 3, (rows, LENGTH)), axis=1)
    return Batch((ids[:, :-1], segments)[: len(model.inputs)], labels)


def parts(batch: Batch, cuts: Sequence[int]) -> list[Batch]:
    """The rows of a batch from each cut to the next."""
    return [Batch(tuple(x[i:j] for x in batch.inputs), batch.labels[i:j]) for i, j in pairwise(cuts)]
