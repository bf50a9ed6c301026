"""Training steps of modules: forward, backward and AdamW, numpy in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn.functional import cross_entropy

from flashir.backend import NO_LABEL, AdamW, TrainingStep
from flashir.ir import Graph
from flashir_torch.devices import device_of
from flashir_torch.emit import module
from flashir_torch.session import Array, input_type, tensors


def training_step(graph: Graph, params: Mapping[str, Array], device: str, optimiser: AdamW) -> TrainingStep:
    """A training step on a device. Raises TargetError, ParameterError."""
    place = device_of(device)
    made = module(graph, params).train().to(place)
    types = [input_type(value, None) for value in graph.inputs]
    adamw = torch.optim.AdamW(
        made.parameters(),
        lr=optimiser.learning_rate,
        betas=(optimiser.beta1, optimiser.beta2),
        eps=optimiser.epsilon,
        weight_decay=optimiser.weight_decay,
    )

    def step(arrays: Sequence[Array], labels: Array) -> float:
        inputs = tensors(graph.inputs, arrays, types, place)
        wanted = torch.tensor(labels, dtype=torch.int64, device=place)
        adamw.zero_grad(set_to_none=True)
        logits = made(*inputs)
        loss = cross_entropy(logits.float().flatten(0, -2), wanted.flatten(), ignore_index=NO_LABEL)
        loss.backward()  # type: ignore[no-untyped-call]
        adamw.step()
        return float(loss.detach())

    return step
