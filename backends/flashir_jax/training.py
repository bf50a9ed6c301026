"""Training: forward, backward and AdamW with jit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flashir.backends.optimizer_state import Moments
from flashir.backends.protocols import Array, Params
from flashir.backends.score import Score
from flashir.backends.training import NO_LABEL, AdamW, Batch, Step, count_labels
from flashir.ir import Graph
from flashir_jax.functions import function
from flashir_jax.layout import Stack
from flashir_jax.placement import placement
from flashir_jax.session import exactly
from flashir_jax.types import element_type, enough_bits, in_float64

Tree = dict[str, Any]
"""Stacked parameters, or arrays of the same layout, by the names of `Function.stack`."""


class JaxTrainer:
    """See `Trainer`, and `Trainable.trainer` for the arguments. Raises TargetError, ParameterError.

    It has three programs, compiled once per shape: the gradient of a batch, the sum of two gradients, and the step.
    """

    def __init__(
        self,
        graph: Graph,
        params: Params,
        device: str,
        optimiser: AdamW,
        state: Mapping[str, Array] | None = None,
        remat: bool = False,
    ) -> None:
        moments = Moments.read(state, params)
        self._graph, self._wide = graph, in_float64(graph)
        self._place = placement(device)
        self._apply = function(graph, remat=remat, placement=self._place)
        used = {name for stack in self._apply.parameters.values() for name in stack.names()}
        self._unused = {name: np.array(array) for name, array in params.items() if name not in used}
        call, adamw = exactly(self._apply), transformation(optimiser)

        def scored(own: Tree, labels: Any, *inputs: Any) -> Any:
            scores = call(own, *inputs)
            right = (scores.argmax(-1) == labels) & (labels != NO_LABEL)
            return cross_entropy(scores, labels), jnp.sum(right)

        def mean(own: Tree, total: Any, labels: Any, *inputs: Any) -> Any:
            return cross_entropy(call(own, *inputs), labels) / total

        def moved(own: Tree, slopes: Tree, known: Any, learning_rate: Any) -> tuple[Tree, Any, Any]:
            norms = {name: norm(self._apply.parameters[name], slope) for name, slope in slopes.items()}
            if optimiser.clip is not None:
                slopes = {name: g * jnp.minimum(1.0, optimiser.clip / norms[name]) for name, g in slopes.items()}
            changes, known = adamw.update(slopes, known, own)
            own = jax.tree.map(lambda p, change: p - learning_rate * change, own, changes)
            adam, *rest = known
            known = adam._replace(mu=self._held(adam.mu), nu=self._held(adam.nu)), *rest
            return self._held(own), known, jnp.sqrt(sum(jnp.sum(length**2) for length in norms.values()))

        self._scored = jax.jit(scored)
        self._slopes = jax.jit(jax.value_and_grad(mean))
        self._add = jax.jit(lambda one, other: jax.tree.map(jnp.add, one, other), donate_argnums=0)
        self._moved = jax.jit(moved, donate_argnums=(0, 2))
        with enough_bits(self._wide):
            self._own = self._laid(params)
            adam, *rest = adamw.init(self._own)
            count = self._place.number(moments.count)
            self._known = (
                adam._replace(count=count, mu=self._laid(moments.mean), nu=self._laid(moments.square)),
                *rest,
            )

    def step(self, batches: Sequence[Batch], learning_rate: float) -> Step:
        """See Trainer. Gradients are summed in float32, batch by batch."""
        total = np.float32(count_labels(self._graph, batches))
        with enough_bits(self._wide), self._place.together():
            loss, slopes = reduce(self._add, (self._slopes(self._own, total, *self._fed(batch)) for batch in batches))
            self._own, self._known, length = self._moved(self._own, slopes, self._known, np.float32(learning_rate))
            return Step(float(loss), float(length))

    def score(self, batch: Batch) -> Score:
        """See Trainer."""
        labels = count_labels(self._graph, [batch], least=0)
        with enough_bits(self._wide), self._place.together():
            nats, right = self._scored(self._own, *self._fed(batch))
            return Score(float(nats), labels, int(right))

    def agreed(self, wish: bool) -> bool:
        """See Trainer."""
        return self._place.agreed(wish)

    def params(self) -> dict[str, Array]:
        """See Trainer."""
        return self._whole(self._own, self._unused)

    def state(self) -> dict[str, Array]:
        """See Trainer. Unused parameters have zero moments."""
        zeros = {name: np.zeros_like(array) for name, array in self._unused.items()}
        adam = self._known[0]
        moments = Moments(self._whole(adam.mu, zeros), self._whole(adam.nu, zeros), int(adam.count))
        return moments.state() if self._place.is_first else {}

    def _laid(self, arrays: Mapping[str, Array]) -> Tree:
        """Stack arrays and place them on the devices."""
        stacks = self._apply.parameters
        return {name: self._place.laid(stacks[name], array) for name, array in self._apply.stack(arrays).items()}

    def _held(self, laid: Tree) -> Tree:
        return {name: self._place.held(self._apply.parameters[name], array) for name, array in laid.items()}

    def _fed(self, batch: Batch) -> list[Any]:
        """The labels and the inputs on the devices."""
        pairs = zip(batch.inputs, self._graph.inputs, strict=True)
        inputs = [self._place.tokens(np.asarray(x, element_type(v.type.dtype))) for x, v in pairs]
        return [self._place.tokens(np.asarray(batch.labels, np.int32), missing=NO_LABEL), *inputs]

    def _whole(self, laid: Tree, others: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays by full name, with copies of the unused ones, in the first process; empty in the others."""
        with self._place.together():
            fetched = {name: self._place.whole(array) for name, array in laid.items()}
        if not self._place.is_first:
            return {}
        return {**self._apply.unstack(fetched), **{name: array.copy() for name, array in others.items()}}


def cross_entropy(logits: Any, labels: Any) -> Any:
    """The sum over all labels in nats. logits [.., v], labels [..]."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    counts = labels != NO_LABEL
    chosen = jnp.take_along_axis(log_probs, jnp.where(counts, labels, 0)[..., None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(counts, chosen, 0.0))


def transformation(optimiser: AdamW) -> optax.GradientTransformationExtraArgs:
    """The update of AdamW before its multiplication by the learning rate."""
    adam = optax.scale_by_adam(optimiser.beta1, optimiser.beta2, optimiser.epsilon)
    return optax.chain(adam, optax.add_decayed_weights(optimiser.weight_decay))


def norm(stack: Stack, slope: Any) -> Any:
    """The L2 norm of the gradient of each layer: [*rounds, *shape] -> [*rounds, 1, ..]."""
    return jnp.sqrt(jnp.sum(slope**2, axis=tuple(range(len(stack.rounds), slope.ndim)), keepdims=True))
