"""Functions to time: a forward run or a training step of a model on a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flashir.backends.lowering import Lowering
from flashir.backends.optimizer_state import Moments
from flashir.backends.protocols import Array, Params
from flashir.backends.registry import backend_of
from flashir.backends.results import results_of
from flashir.backends.training import Batch, Trainer
from flashir.backends.warm_call import timed
from flashir.errors import ArtefactError
from flashir.execution.trainer import new_trainer
from flashir.ir import Graph
from flashir.machine.device import available_device
from flashir.models.parameters import init
from flashir.planning.workload import Workload
from flashir.reference.compare import sample_inputs
from flashir.transforms import bind_sizes

LEARNING_RATE = 7e-4
"""The peak learning rate of Table 6."""


@dataclass(frozen=True)
class TrainingStep:
    """A training step on a fixed batch. A call makes the step and returns the loss before it.

    Args:
        trainer: a new trainer.
        batch: a batch with random labels.
        params: the initial parameters of the trainer, by full name.
    """

    trainer: Trainer
    batch: Batch
    params: Params

    def __call__(self) -> float:
        """Make the step."""
        return self.trainer.step([self.batch], LEARNING_RATE).loss

    def as_run(self, inputs: Sequence[Array]) -> Array:
        """Make the step as a Run, and return the loss []. The inputs are ignored."""
        return np.asarray(self())

    def gradients(self) -> Mapping[str, Array]:
        """The gradients of the first step by full name, times a constant; valid before the second step."""
        return Moments.read(self.trainer.state(), self.params).mean


def subject(graph: Graph, target: str, workload: Workload) -> Callable[[], object]:
    """A function that runs a settled model forward once, or makes one training step. It is called once to check it.

    Raises:
        TargetError: the target is not available, or cannot train.
        ArtefactError: the result or the loss is not finite.
    """
    lowered, inputs, params = Lowering.of(target).run(graph), sample_inputs(graph, workload.sizes(graph)), init(graph)
    if workload.training:
        step = training_step(graph, lowered, params, target, inputs)
        if not np.isfinite(step()):
            raise ArtefactError("its loss is not finite")
        return timed(step.as_run, available_device(target), inputs)
    device = available_device(target)
    run = backend_of(target).compile(lowered, params, device)
    if not all(np.isfinite(array).all() for array in results_of(run, inputs)):
        raise ArtefactError("it computes numbers that are not finite")
    return timed(run, device, inputs)


def training_step(graph: Graph, lowered: Graph, params: Params, target: str, inputs: Sequence[Array]) -> TrainingStep:
    """A training step of a model with random labels.

    Args:
        graph: the settled model; its single result is logits [b, t, v].
        lowered: the model lowered for the target.
        params: parameters by full name.
        target: an available target.
        inputs: the inputs of a run.

    Raises:
        TargetError: the target cannot train, or its device is not available.
    """
    sizes = bind_sizes(graph, [array.shape for array in inputs])
    *shape, vocab = graph.outputs[0].type.bind(sizes).sizes
    labels = np.random.default_rng(1).integers(0, vocab, shape)
    trainer = new_trainer(graph, target, params, lowered=lowered)
    return TrainingStep(trainer, Batch(tuple(inputs), labels), params)
