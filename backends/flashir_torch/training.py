"""Modules in training: forward, backward and AdamW, numpy in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flashir.backends.optimizer_state import Moments
from flashir.backends.protocols import Array, Params
from flashir.backends.score import Score
from flashir.backends.training import NO_LABEL, AdamW, Batch, Step, count_labels
from flashir.ir import Graph
from flashir.ir.traits import Axes
from flashir.ops import OPS
from flashir.transforms.narrow_results import NarrowResults
from flashir.transforms.wide_params import WideParams
from flashir_torch.emit import module
from flashir_torch.fusing import fuse, fuses, summed_loss
from flashir_torch.late_casts import LateCasts
from flashir_torch.names import parameter_name
from flashir_torch.placement import Placement, placement
from flashir_torch.remat import rematerialise
from flashir_torch.replay import CardRecorder, Replay
from flashir_torch.session import input_type, tensors


def trained_graph(graph: Graph) -> Graph:
    """A lowered graph with float32 weights and narrow logits, as it is trained."""
    for transform in (WideParams(), LateCasts(), NarrowResults()):
        graph = transform.apply(graph)
    return graph


def writes_over_logits(graph: Graph, device: torch.device) -> bool:
    """Whether the gradient of the logits may take their memory: on GPUs, for the result of a matrix product.

    That is memory of its own, and no gradient reads it.
    """
    node = next((node for node in graph.nodes if graph.outputs[0] in node.outputs), None)
    return device.type == "cuda" and node is not None and OPS[node.op].axes is Axes.MATMUL


Adapt = Callable[[Sequence[Tensor], Any], Tensor]
"""A step: gradients, and a learning rate (a tensor [] for kernels, otherwise a float) -> the norm of all gradients."""


class TorchTrainer:
    """See `Trainer`, and `Trainable.trainer` for the arguments. Raises TargetError, ParameterError."""

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
        self._graph = graph
        self._types = [input_type(value, None) for value in graph.inputs]
        self._place = placement(device)
        graph = trained_graph(graph)
        self._module = module(graph, params).train().to(self._place.device)
        is_wide = any(parameter.dtype == torch.float64 for parameter in self._module.parameters())
        self._fuses = fuses(device) and self._place.processes.count == 1 and not is_wide
        if self._fuses:
            fuse(self._module, whole_layers=remat)
        loss = torch.compile(summed_loss) if self._fuses else summed_loss
        self._scored = partial(_scored, self._module, loss)
        if remat:
            rematerialise(self._module)
        self._place.shard(self._module)
        self._parameters = {parameter_name(path): own for path, own in self._module.named_parameters()}
        self._unused = {name: np.array(array) for name, array in params.items() if name not in self._parameters}
        self._adamw = self._optimiser(optimiser, moments)
        replays = self._fuses and not remat
        learn = partial(_learnt, partial(_summed, self._module, loss))
        if self._fuses and writes_over_logits(graph, self._place.device):
            learn = partial(_learnt_over_logits, self._module)
        parameters = list(self._parameters.values())
        update = partial(_updated, parameters, self._adamw, self._adapt(parameters, optimiser))
        self._replay = Replay(CardRecorder()) if replays else None
        self._learn, self._update = (
            (partial(self._replay, work) if self._replay else work) for work in (learn, partial(update, replays))
        )
        self._of_one_batch = partial(_of_one_batch, parameters, learn, partial(update, False))

    def _optimiser(self, optimiser: AdamW, moments: Moments) -> torch.optim.AdamW:
        adamw = torch.optim.AdamW(
            self._parameters.values(),
            betas=(optimiser.beta1, optimiser.beta2),
            eps=optimiser.epsilon,
            weight_decay=optimiser.weight_decay,
        )
        count = torch.tensor(float(moments.count), device=self._place.device if self._fuses else "cpu")
        for name, parameter in self._parameters.items():
            adamw.state[parameter] = {
                "step": count if self._fuses else count.clone(),
                "exp_avg": self._place.laid(moments.mean[name], parameter),
                "exp_avg_sq": self._place.laid(moments.square[name], parameter),
            }
        return adamw

    def _adapt(self, parameters: Sequence[nn.Parameter], optimiser: AdamW) -> Adapt:
        """A step of AdamW: by kernels of its own on a GPU, which are few and read a gradient twice, not four times."""
        if not self._fuses:
            return partial(_adapted, self._place, self._adamw, optimiser.clip)
        from flashir_torch.kernels.adamw import Update

        known = [self._adamw.state[parameter] for parameter in parameters]
        means, squares = ([moments[name] for moments in known] for name in ("exp_avg", "exp_avg_sq"))
        return Update(parameters, means, squares, known[0]["step"], optimiser)

    def step(self, batches: Sequence[Batch], learning_rate: float) -> Step:
        """See Trainer. Gradients are summed in float32, batch by batch."""
        labels = count_labels(self._graph, batches)
        if self._replay is not None and len(batches) == 1:
            numbers = (self._place.sent(torch.tensor(float(number))) for number in (learning_rate, labels))
            whole = partial(self._replay, self._of_one_batch, *numbers, *self._laid(batches[0]))
            return Step(*self._with_room(whole).tolist())
        with self._place.together():
            loss = self._with_room(partial(self._gradients, batches, labels))
            norm = self._update(self._place.sent(torch.tensor(learning_rate)) if self._fuses else learning_rate)
            return Step(*torch.stack((self._place.total(loss), norm)).tolist())

    def score(self, batch: Batch) -> Score:
        """See Trainer."""
        labels = count_labels(self._graph, [batch], least=0)
        with torch.no_grad(), self._place.together():
            scored = self._with_room(lambda: self._scored(*self._laid(batch)))
            nats, right = self._place.total(scored).tolist()
            return Score(nats, labels, int(right))

    def _gradients(self, batches: Sequence[Batch], labels: int) -> Tensor:
        """The mean loss over so many labels, []; its gradients are added to those of the parameters."""
        total = self._place.sent(torch.tensor(float(labels)))
        loss = torch.zeros((), device=self._place.device)
        for batch in batches:
            loss += self._learn(total, *self._laid(batch))
        return loss

    def _with_room(self, work: Callable[[], Tensor]) -> Tensor:
        """Do work, once more without recordings if they leave too little memory for it."""
        try:
            return work()
        except torch.OutOfMemoryError:
            if self._replay is None or not self._replay.forget():
                raise
        self._adamw.zero_grad(set_to_none=False)  # the work may have failed between two gradients
        return work()

    def agreed(self, wish: bool) -> bool:
        """See Trainer."""
        with self._place.together():
            return bool(self._place.total(torch.tensor(float(wish), device=self._place.device)))

    def params(self) -> dict[str, Array]:
        """See Trainer."""
        return self._whole(self._parameters, self._unused)

    def state(self) -> dict[str, Array]:
        """See Trainer. Unused parameters have zero moments."""
        zeros = {name: np.zeros_like(array) for name, array in self._unused.items()}
        known = {name: self._adamw.state[parameter] for name, parameter in self._parameters.items()}
        mean = self._whole({name: moments["exp_avg"] for name, moments in known.items()}, zeros)
        square = self._whole({name: moments["exp_avg_sq"] for name, moments in known.items()}, zeros)
        count = next((int(moments["step"]) for moments in known.values()), 0)
        return Moments(mean, square, count).state() if self._place.processes.is_first else {}

    def _laid(self, batch: Batch) -> tuple[Tensor, ...]:
        """The labels and inputs of this process on its device."""
        arrays = [self._place.rows(array) for array in batch.inputs]
        labels = torch.tensor(self._place.rows(batch.labels), dtype=torch.int64)
        inputs = tensors(self._graph.inputs, arrays, self._types, torch.device("cpu"))
        return tuple(map(self._place.sent, (labels, *inputs)))

    def _whole(self, laid: Mapping[str, Tensor], others: Mapping[str, Array]) -> dict[str, Array]:
        """Gathered tensors, with copies of the unused ones, in the first process; empty in the others."""
        with self._place.together():
            gathered = {name: self._place.whole(tensor) for name, tensor in laid.items()}
        if not self._place.processes.is_first:
            return {}
        return {**gathered, **{name: array.copy() for name, array in others.items()}}


def _summed(net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], labels: Tensor, *inputs: Tensor) -> Tensor:
    """The cross-entropy of a model, summed over its labels, []."""
    return loss(net(*inputs), labels)


def _scored(net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], labels: Tensor, *inputs: Tensor) -> Tensor:
    """The cross-entropy of a model, and how many labels have the highest score, [2]."""
    scores = net(*inputs)
    right = (scores.argmax(-1) == labels) & (labels != NO_LABEL)
    return torch.stack([loss(scores, labels), right.sum().float()])


def _learnt(loss: Callable[..., Tensor], total: Tensor, labels: Tensor, *inputs: Tensor) -> Tensor:
    """Forward and backward. Returns the part of these rows in the mean loss over `total` labels, []."""
    part = loss(labels, *inputs) / total
    part.backward()  # type: ignore[no-untyped-call]
    return part.detach()


def _learnt_over_logits(net: nn.Module, total: Tensor, labels: Tensor, *inputs: Tensor) -> Tensor:
    """As `_learnt`, with the gradient of the logits in their memory."""
    from flashir_torch.kernels.loss import loss_over_logits

    logits = net(*inputs)
    part = loss_over_logits(logits.detach(), labels, total)
    logits.backward(logits.detach())
    return part


def _of_one_batch(
    parameters: Sequence[nn.Parameter],
    learn: Callable[..., Tensor],
    update: Callable[[Tensor], Tensor],
    learning_rate: Tensor,
    total: Tensor,
    labels: Tensor,
    *inputs: Tensor,
) -> Tensor:
    """A whole step, whose gradients are memory of their own: neither zeroed before nor added to. -> loss and norm, [2].

    Gradients that other steps keep are there again afterwards.
    """
    kept = [parameter.grad for parameter in parameters]
    try:
        _place_gradients(parameters, [None] * len(kept))
        return torch.stack((learn(total, labels, *inputs), update(learning_rate)))
    finally:
        _place_gradients(parameters, kept)


def _place_gradients(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def _updated(
    parameters: Sequence[nn.Parameter],
    adamw: torch.optim.AdamW,
    adapt: Adapt,
    keep: bool,
    learning_rate: float | Tensor,
) -> Tensor:
    """Adapt the parameters, and clear their gradients, in place if they are kept.

    Returns the norm of the whole gradient before clipping, [].
    """
    for parameter in parameters:
        if parameter.grad is None:  # the loss does not depend on it
            parameter.grad = torch.zeros_like(parameter)
    norm = adapt([parameter.grad for parameter in parameters if parameter.grad is not None], learning_rate)
    adamw.zero_grad(set_to_none=not keep)
    return norm


def _adapted(
    place: Placement,
    adamw: torch.optim.AdamW,
    clip: float | None,
    gradients: Sequence[Tensor],
    learning_rate: float,
) -> Tensor:
    """Clip the gradient of each parameter, and make a step of AdamW. Returns the norm of the whole gradient, []."""
    squares = place.squares(gradients)
    if clip is not None:
        scales = (clip / squares.sqrt()).clamp(max=1.0)
        torch._foreach_mul_([place.own(gradient) for gradient in gradients], list(scales))
    for group in adamw.param_groups:
        group["lr"] = learning_rate
    adamw.step()
    return squares.sum().sqrt()
