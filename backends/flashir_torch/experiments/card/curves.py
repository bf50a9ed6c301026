"""The stage `curves`: the losses of a flash in training by its kernels, against those by its parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import flashir
from flashir.backends.lowering import Lowering
from flashir.backends.training import AdamW, Batch
from flashir.execution.timed_step import LEARNING_RATE
from flashir.models.parameters import init
from flashir_torch.experiments.card.setting import Setting
from flashir_torch.experiments.card.stage import Document
from flashir_torch.training import TorchTrainer

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
"""The largest difference of a loss relative to that by parts."""

PATHS = {"kernels": "scan", "parts": "matmul"}
"""The strategy that has kernels, and one that has none."""


def measure(setting: Setting, known: Document) -> Iterator[Document]:
    """The losses of both paths in each compute type."""
    document: Document = {"losses": dict(known.get("losses", {}))}
    for dtype in TOLERANCE:
        if dtype not in document["losses"]:
            document["losses"][dtype] = {path: losses(setting, dtype, cumsum) for path, cumsum in PATHS.items()}
            yield document


def losses(setting: Setting, dtype: str, cumsum: str) -> list[float]:
    """The loss of each step on one sequence of random batches."""
    rows, length = setting.curve_rows, setting.curve_length
    model = flashir.model("flash", cumsum=cumsum, **setting.curve)
    graph = flashir.plan(model, setting.target, rows, length, training=True, dtype=dtype).graph
    trainer = TorchTrainer(Lowering.of(setting.target).run(graph), init(graph), setting.device, AdamW(clip=1.0))
    random, vocab = np.random.default_rng(0), setting.curve["vocab"]
    curve = []
    for _ in range(setting.steps):
        ids = random.integers(0, vocab, (rows, length + 1))
        curve.append(trainer.step([Batch((ids[:, :-1],), ids[:, 1:])], LEARNING_RATE).loss)
    return curve


def difference(pair: dict[str, list[float]]) -> float:
    """The largest relative difference of two curves; NaN if a loss is."""
    kernels, parts = (_numbers(pair[path]) for path in PATHS)
    return float(np.max(np.abs(kernels - parts) / np.abs(parts)))


def _numbers(losses: list[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(losses, np.float64)  # JSON has null for NaN


def summary(document: Document) -> Iterator[str]:
    """How far the curves are apart."""
    for dtype, pair in document["losses"].items():
        steps, last = len(pair["parts"]), _numbers(pair["parts"])[-1]
        yield f"{dtype}: {steps} losses, the last {last:.4f}, at most {difference(pair):.1e} apart"


def faults(document: Document) -> Iterator[str]:
    """Curves that are too far apart."""
    for dtype, pair in document["losses"].items():
        if not difference(pair) <= TOLERANCE[dtype]:
            yield f"the losses in {dtype} are {difference(pair):.1e} apart, more than {TOLERANCE[dtype]}"
