"""One training step is the same on every backend that trains: loss, gradients, AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.backend import NO_LABEL, AdamW, Trainable, TrainingStep
from flashir.compiler import prepare
from flashir.ir import Graph
from flashir.parameters import unit
from flashir.registry import backend, backend_names, backend_of

Array = np.ndarray[Any, Any]
TARGETS = [f"{name}:cpu" for name in backend_names() if isinstance(backend(name), Trainable)]
MODEL = """model @m(%ids: i32[B, T]) -> f32[B, T, 5] {
  %x = embed(%ids) {vocab = 5, dim = 4}
  %l = unembed(%x) {tied = true}
  return %l
}"""
IDS = np.array([[0, 1, 2], [3, 4, 1]])
LABELS = np.array([[1, 2, NO_LABEL], [4, 0, 3]])


def step_of(target: str, model: Graph, params: dict[str, Array], optimiser: AdamW) -> TrainingStep:
    found = backend_of(target)
    assert isinstance(found, Trainable)
    return found.training_step(prepare(model, target, params).lowered, params, "cpu", optimiser)


def loss_of(logits: Array, labels: Array) -> float:
    """In float64, by the book."""
    chances = np.exp(logits - logits.max(-1, keepdims=True))
    chances /= chances.sum(-1, keepdims=True)
    kept = labels != NO_LABEL
    return float(-np.mean(np.log(np.take_along_axis(chances, np.where(kept, labels, 0)[..., None], -1)[..., 0][kept])))


def test_backends_that_train_are_known() -> None:
    assert TARGETS == ["jax:cpu", "torch:cpu"]
    assert not isinstance(backend("onnx"), Trainable)


@pytest.mark.parametrize("target", TARGETS)
def test_the_loss_counts_labels_alone_and_the_step_is_adamw(target: str) -> None:
    model = flashir.loads(MODEL)
    params = {"embed.weight": np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)}
    own = np.asarray(params["embed.weight"], np.float64)
    optimiser = AdamW(learning_rate=0.1, beta1=0.8, beta2=0.9, epsilon=1e-3, weight_decay=0.5)
    step = step_of(target, model, params, optimiser)
    mean, square = np.zeros_like(own), np.zeros_like(own)
    for count in (1, 2, 3):
        assert step([IDS], LABELS) == pytest.approx(loss_of(own[IDS] @ own.T, LABELS), rel=1e-4), count
        slope = slopes(lambda weight: loss_of(weight[IDS] @ weight.T, LABELS), own)
        mean, square = 0.8 * mean + 0.2 * slope, 0.9 * square + 0.1 * slope**2
        change = mean / (1 - 0.8**count) / (np.sqrt(square / (1 - 0.9**count)) + 1e-3)
        own = own - 0.1 * (change + 0.5 * own)


def slopes(loss: Callable[[Array], float], at: Array, step: float = 1e-6) -> Array:
    """By central differences."""
    made = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[place] = step
        made[place] = (loss(at + shift) - loss(at - shift)) / (2 * step)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("system", ["flash", "transformer++"])
def test_backends_learn_alike(system: str) -> None:
    model = flashir.plan(flashir.model(system, size="tiny"), "torch:cpu", seq_len=64).graph
    params = unit(model)
    ids = np.random.default_rng(0).integers(0, 200, (2, 70))
    labels = np.where(np.arange(70) < 69, np.roll(ids, -1, axis=1), NO_LABEL)
    found = {}
    for target in TARGETS:
        step = step_of(target, model, params, AdamW())
        found[target] = [step([ids], labels) for _ in range(4)]
    one, other = found.values()
    assert one == pytest.approx(other, rel=1e-3)
    assert one[-1] < one[0]


@pytest.mark.parametrize("target", TARGETS)
def test_parameters_that_are_given_stay_as_they_are(target: str) -> None:
    params = {"embed.weight": np.ones((5, 4), np.float32)}
    step = step_of(target, flashir.loads(MODEL), params, AdamW(learning_rate=1.0))
    step([IDS], LABELS)
    assert (params["embed.weight"] == 1).all()
