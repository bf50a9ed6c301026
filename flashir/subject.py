"""What is timed: a model on a target, compiled, as something to call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from flashir.backend import AdamW, Array, Batch, Params, Trainable
from flashir.compiler import device_at_hand
from flashir.errors import ArtefactError, TargetError
from flashir.export import sample_inputs
from flashir.interpreter import bind_sizes
from flashir.ir import Graph
from flashir.lowering import Lowering
from flashir.parameters import init
from flashir.registry import backend_of
from flashir.workload import Workload

LEARNING_RATE = 7e-4
"""At the peak, by Table 6."""


def subject(graph: Graph, target: str, workload: Workload) -> Callable[[], object]:
    """A settled model as something to call, once called and found well: one run forward, or one training step.

    Raises:
        TargetError: the target is not at hand, or cannot train where that is asked.
        ArtefactError: the result, or the loss, is not finite.
    """
    lowered, inputs, params = Lowering.of(target).run(graph), sample_inputs(graph, workload.sizes(graph)), init(graph)
    if workload.training:
        step = training_step(graph, lowered, params, target, inputs)
        if not np.isfinite(step()):
            raise ArtefactError("its loss is not finite")
        return step
    run = backend_of(target).compile(lowered, params, device_at_hand(target))
    if not np.isfinite(run(inputs)).all():
        raise ArtefactError("it computes numbers that are not finite")
    return lambda: run(inputs)


def training_step(
    graph: Graph, lowered: Graph, params: Params, target: str, inputs: Sequence[Array]
) -> Callable[[], float]:
    """A step of training on labels drawn at random, the same every time; it returns the loss before the step.

    Args:
        graph: settled; its one result is logits [b, t, v].
        lowered: the same for the target.
        params: by full name.
        target: at hand.
        inputs: as for a run.

    Raises:
        TargetError: the target cannot train, or its device is not at hand.
    """
    sizes = bind_sizes(graph, [array.shape for array in inputs])
    *shape, vocab = graph.outputs[0].type.bind(sizes).sizes
    labels = np.random.default_rng(1).integers(0, vocab, shape)
    trainer = trainable(target).trainer(lowered, params, device_at_hand(target), AdamW())
    batches = [Batch(tuple(inputs), labels)]
    return lambda: trainer.step(batches, LEARNING_RATE).loss


def trainable(target: str) -> Trainable:
    """The backend of a target. Raises TargetError where it cannot train."""
    found = backend_of(target)
    if not isinstance(found, Trainable):
        raise TargetError(f"{target} cannot train: the backend {found.name!r} runs forward only")
    return found
