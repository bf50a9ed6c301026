"""The placement of a model in training: in a single process, or sharded over several with FSDP2.

`torchrun` starts the processes. `fully_shard` keeps a part of every parameter, of its gradient and of its moments in
each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from flashir.backends.protocols import Array
from flashir.errors import TargetError
from flashir.machine.processes import Processes
from flashir_torch.devices import device_of
from flashir_torch.remat import layers

PATIENCE = timedelta(minutes=10)
"""The timeout of a process for the others; longer than writing a checkpoint takes."""


class Placement:
    """Everything in this process, on one device."""

    def __init__(self, device: torch.device, processes: Processes = Processes()) -> None:  # noqa: B008  # frozen
        self.device = device
        self.processes = processes

    def shard(self, module: nn.Module) -> None:
        """Shard a module over the processes."""

    def rows(self, array: Array) -> Array:
        """The rows of an array [b, ..] that this process computes."""
        return array

    def sent(self, tensor: Tensor) -> Tensor:
        """A tensor of the processor on the device; a GPU copies it while the processor goes on."""
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def laid(self, array: Array, like: Tensor) -> Tensor:
        """An array as a tensor with the placement of a parameter."""
        return torch.tensor(array, dtype=like.dtype, device=self.device)

    def whole(self, tensor: Tensor) -> Array:
        """A parameter, or a tensor of the same placement, as float32 in the first process; empty in the others."""
        return np.asarray(tensor.detach().float().cpu().numpy().copy())

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes."""
        return values

    def squares(self, gradients: Sequence[Tensor]) -> Tensor:
        """The sum of the squares of each gradient, [number of gradients]."""
        return torch.stack(torch._foreach_norm(list(gradients))) ** 2  # few kernels, because launches dominate on a GPU

    def own(self, tensor: Tensor) -> Tensor:
        """The local part of a tensor, to be modified in place."""
        return tensor

    @contextmanager
    def together(self) -> Iterator[None]:
        """The context of collective operations. Raises TargetError if another process is gone."""
        yield


class Sharded(Placement):
    """Sharded over processes. PyTorch cannot shard scalars: they are replicated, and their gradients are summed."""

    def __init__(self, device: torch.device, processes: Processes) -> None:
        super().__init__(device, processes)
        with self.together():
            self.mesh = _mesh(device, processes)

    def shard(self, module: nn.Module) -> None:
        """Shard each layer, so that at most one is gathered at a time, then the remaining parameters."""
        scalars = {parameter for parameter in module.parameters() if not parameter.ndim}
        for part in (*layers(module), module):
            sharded: FSDPModule = fully_shard(part, mesh=self.mesh, ignored_params=scalars)
            sharded.set_gradient_divide_factor(1.0)  # a sum: the loss is divided by the labels of all
            sharded.set_force_sum_reduction_for_comms(True)

    def rows(self, array: Array) -> Array:
        """Every N-th row, for N processes."""
        return array[self.processes.rank :: self.processes.count]

    def laid(self, array: Array, like: Tensor) -> Tensor:
        """Every process has the whole array, so nothing is sent."""
        full = super().laid(array, like)
        if not isinstance(like, DTensor):
            return full
        return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)

    def whole(self, tensor: Tensor) -> Array:
        """Gather a tensor in all processes, and return it in the first."""
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        return super().whole(full if self.processes.is_first else full.new_empty(0))

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes, in place."""
        dist.all_reduce(values)
        return values

    def squares(self, gradients: Sequence[Tensor]) -> Tensor:
        """The sum of the squares of the parts. Gradients of scalars are summed first, and count once."""
        scalars = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
        if scalars:
            summed = self.total(torch.stack(scalars))
            for scalar, value in zip(scalars, summed, strict=True):
                scalar.copy_(value)
        counted = torch.tensor([isinstance(gradient, DTensor) or self.processes.is_first for gradient in gradients])
        own = super().squares([self.own(gradient) for gradient in gradients])
        return self.total(torch.where(counted.to(self.device), own, 0.0))

    def own(self, tensor: Tensor) -> Tensor:
        """The local part of a sharded tensor."""
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    @contextmanager
    def together(self) -> Iterator[None]:
        """Turn a closed or silent connection to another process into TargetError."""
        try:
            yield
        except RuntimeError as error:  # raised by Gloo, and the base class of NCCL's errors
            if not _is_of_connections(error):
                raise
            rank, count = self.processes.rank, self.processes.count
            raise TargetError(
                f"process {rank} of {count} has lost another one: {str(error).partition('. ')[0]}",
                where="torch",
                hint="torchrun names the one that failed; start again from the last checkpoint",
            ) from error


def placement(device: str) -> Placement:
    """The placement of training: a single process, or one of several with its own device.

    Raises TargetError if the device is not available, or the processes do not find each other.
    """
    place, processes = device_of(device), Processes.here()
    if processes.count == 1:
        return Placement(place)
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    return Sharded(place, processes)


def _mesh(device: torch.device, processes: Processes) -> DeviceMesh:
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return init_device_mesh(device.type, (processes.count,))


def _is_of_connections(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "connection", "timed out"))
