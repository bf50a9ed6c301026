"""What a benchmark times: a model on a target, compiled, as something to call."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flashir.backend import AdamW, Batch, Trainable
from flashir.compiler import device_at_hand
from flashir.errors import ArtefactError, TargetError
from flashir.export import sample_inputs
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
    backend, device = backend_of(target), device_at_hand(target)
    sizes = workload.sizes(graph)
    lowered = Lowering.of(target).run(graph)
    inputs, params = sample_inputs(graph, sizes), init(graph)
    if not workload.training:
        run = backend.compile(lowered, params, device)
        if not np.isfinite(run(inputs)).all():
            raise ArtefactError("it computes numbers that are not finite")
        return lambda: run(inputs)
    *shape, vocab = graph.outputs[0].type.bind(sizes).sizes
    labels = np.random.default_rng(1).integers(0, vocab, shape)
    trainer, batches = trainable(target).trainer(lowered, params, device, AdamW()), [Batch(tuple(inputs), labels)]
    if not np.isfinite(trainer.step(batches, LEARNING_RATE).loss):
        raise ArtefactError("its loss is not finite")
    return lambda: trainer.step(batches, LEARNING_RATE)


def trainable(target: str) -> Trainable:
    """The backend of a target. Raises TargetError where it cannot train."""
    found = backend_of(target)
    if not isinstance(found, Trainable):
        raise TargetError(f"{target} cannot train: the backend {found.name!r} runs forward only")
    return found
