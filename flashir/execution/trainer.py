"""Trainers: a model lowered for a target, with its parameters and an optimizer, on an available device."""

from __future__ import annotations

from flashir.backends.lowering import Lowering
from flashir.backends.protocols import Params, Trainable
from flashir.backends.registry import backend_of, having
from flashir.backends.training import AdamW, Trainer
from flashir.errors import TargetError, either, option
from flashir.ir import Graph
from flashir.machine.device import available_device
from flashir.transforms.select_results import first_result


def new_trainer(
    graph: Graph,
    target: str,
    params: Params,
    optimizer: AdamW | None = None,
    *,
    lowered: Graph | None = None,
    state: Params | None = None,
    remat: bool = False,
) -> Trainer:
    """A trainer of a settled model. Of several results, the first is learnt.

    Args:
        graph: the settled model.
        target: an available target.
        params: the initial parameters by full name.
        optimizer: the optimizer; AdamW by default.
        lowered: the model lowered for the target, if it is known already.
        state: the optimizer state to resume from.
        remat: recompute activations in the backward pass to save memory.

    Raises:
        TargetError: the target cannot train, or its device is not available.
        ParameterError: the state does not fit the parameters.
    """
    backend, device = trainable(target), available_device(target)
    lowered = Lowering.of(target).run(first_result(graph)) if lowered is None else first_result(lowered)
    return backend.trainer(lowered, params, device, optimizer or AdamW(), state=state, remat=remat)


def trainable(target: str) -> Trainable:
    """The backend of a target. Raises TargetError if it cannot train."""
    backend = backend_of(target)
    if not isinstance(backend, Trainable):
        raise TargetError(
            f"{target} cannot train: the backend {backend.name!r} runs forward only",
            hint=either(option("target", f"{name}:cpu") for name in having(Trainable)),
        )
    return backend
