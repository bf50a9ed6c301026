"""Training steps of functions: forward, backward and AdamW under one jit, numpy in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flashir.backend import NO_LABEL, AdamW, TrainingStep
from flashir.ir import Graph
from flashir_jax.functions import function
from flashir_jax.session import Array, device_of, exactly
from flashir_jax.types import enough_bits, in_float64


def training_step(graph: Graph, params: Mapping[str, Any], device: str, optimiser: AdamW) -> TrainingStep:
    """A training step on a device. Raises TargetError, ParameterError."""
    apply, place, wide = function(graph), device_of(device), in_float64(graph)
    call = exactly(apply)

    def loss_of(own: Any, labels: Any, *inputs: Any) -> Any:
        return cross_entropy(call(own, *inputs), labels)

    def update(own: Any, means: Any, squares: Any, count: Any, labels: Any, *inputs: Any) -> Any:
        loss, slopes = jax.value_and_grad(loss_of)(own, labels, *inputs)
        return loss, *adamw(optimiser, own, slopes, means, squares, count)

    compiled = jax.jit(update, donate_argnums=(0, 1, 2))
    with enough_bits(wide):
        own = jax.device_put({name: np.array(array) for name, array in apply.stack(params).items()}, place)
        state = [own, jax.tree.map(jnp.zeros_like, own), jax.tree.map(jnp.zeros_like, own)]
    count = 0

    def step(arrays: Sequence[Array], labels: Array) -> float:
        nonlocal count
        count += 1
        with enough_bits(wide), jax.default_device(place):
            loss, *state[:] = compiled(*state, np.float32(count), np.asarray(labels, np.int32), *arrays)
            for array in jax.tree.leaves(state):
                array.block_until_ready()
            return float(loss)

    return step


def cross_entropy(logits: Any, labels: Any) -> Any:
    """The mean over all labels, in nats. logits [b, t, v], labels [b, t]"""
    chances = jax.nn.log_softmax(logits.astype(jnp.float32))
    counts = labels != NO_LABEL
    found = jnp.take_along_axis(chances, jnp.where(counts, labels, 0)[..., None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(counts, found, 0.0)) / jnp.sum(counts)


def adamw(optimiser: AdamW, own: Any, slopes: Any, means: Any, squares: Any, count: Any) -> tuple[Any, Any, Any]:
    """Parameters, means and mean squares of gradients after the step of that number, from 1."""
    one, two = optimiser.beta1, optimiser.beta2
    means = jax.tree.map(lambda m, g: one * m + (1 - one) * g, means, slopes)
    squares = jax.tree.map(lambda v, g: two * v + (1 - two) * g * g, squares, slopes)

    def moved(p: Any, m: Any, v: Any) -> Any:
        change = m / (1 - one**count) / (jnp.sqrt(v / (1 - two**count)) + optimiser.epsilon)
        return p - optimiser.learning_rate * (change + optimiser.weight_decay * p)

    return jax.tree.map(moved, own, means, squares), means, squares
