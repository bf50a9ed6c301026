"""Where a model in training lies: in this process alone, or in shards over all of them. Nothing else of training knows.

`torchrun` starts the processes; FSDP2 (`fully_shard`) keeps in each a part of every parameter, of its gradient and of
its moments.
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

from flashir.errors import TargetError
from flashir.machine.processes import Processes
from flashir_torch.devices import device_of
from flashir_torch.remat import layers
from flashir_torch.session import Array

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others before it gives up: longer than one needs to write a checkpoint."""


class Placement:
    """All in this process, on one device."""

    def __init__(self, device: torch.device, processes: Processes = Processes()) -> None:  # noqa: B008  # frozen
        self.device = device
        self.processes = processes

    def shard(self, made: nn.Module) -> None:
        """Spread a module over the processes."""

    def rows(self, array: Array) -> Array:
        """[b, ..] -> the rows that this process computes."""
        return array

    def laid(self, array: Array, like: Tensor) -> Tensor:
        """An array as a tensor that lies where a parameter does."""
        return torch.tensor(array, dtype=like.dtype, device=self.device)

    def whole(self, tensor: Tensor) -> Array:
        """A parameter, or what lies like one, as a float32 array; nothing of it but in the first process."""
        return np.asarray(tensor.detach().float().cpu().numpy().copy())

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes."""
        return values

    def squares(self, gradients: Sequence[Tensor]) -> Tensor:
        """The sum of the squares of each gradient, [number of gradients]."""
        return torch.stack(torch._foreach_norm(list(gradients))) ** 2  # few kernels: a card runs each in microseconds

    def own(self, tensor: Tensor) -> Tensor:
        """What lies in this process, to be changed in place."""
        return tensor

    @contextmanager
    def together(self) -> Iterator[None]:
        """What needs all processes. Raises TargetError where another is gone."""
        yield


class Sharded(Placement):
    """A part in each process. PyTorch shards no scalars: they are in all, and their gradients are summed up."""

    def __init__(self, device: torch.device, processes: Processes) -> None:
        super().__init__(device, processes)
        with self.together():
            self.mesh = _mesh(device, processes)

    def shard(self, made: nn.Module) -> None:
        """Layer by layer, so that no more than one is whole at a time; then what is no layer's."""
        scalars = {each for each in made.parameters() if not each.ndim}
        for part in (*layers(made), made):
            sharded: FSDPModule = fully_shard(part, mesh=self.mesh, ignored_params=scalars)
            sharded.set_gradient_divide_factor(1.0)  # a sum: the loss is divided by the labels of all
            sharded.set_force_sum_reduction_for_comms(True)

    def rows(self, array: Array) -> Array:
        """Every N-th of them, for N processes."""
        return array[self.processes.rank :: self.processes.count]

    def laid(self, array: Array, like: Tensor) -> Tensor:
        """Every process has the array, so that none is sent."""
        full = super().laid(array, like)
        if not isinstance(like, DTensor):
            return full
        return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)

    def whole(self, tensor: Tensor) -> Array:
        """Gathered in all, and kept in the first."""
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        return super().whole(full if self.processes.is_first else full.new_empty(0))

    def total(self, values: Tensor) -> Tensor:
        """In place."""
        dist.all_reduce(values)
        return values

    def squares(self, gradients: Sequence[Tensor]) -> Tensor:
        """Of the parts, summed up; a scalar's counts once. Its gradient is summed up first."""
        scalars = [each for each in gradients if not isinstance(each, DTensor)]
        if scalars:
            summed = self.total(torch.stack(scalars))
            for each, value in zip(scalars, summed, strict=True):
                each.copy_(value)
        counted = torch.tensor([isinstance(each, DTensor) or self.processes.is_first for each in gradients])
        own = super().squares([self.own(each) for each in gradients])
        return self.total(torch.where(counted.to(self.device), own, 0.0))

    def own(self, tensor: Tensor) -> Tensor:
        """The part."""
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    @contextmanager
    def together(self) -> Iterator[None]:
        """A connection that is closed, or silent for long, means that a process is gone."""
        try:
            yield
        except RuntimeError as error:  # as Gloo raises, and the parent of what NCCL does
            if not _is_of_connections(error):
                raise
            rank, count = self.processes.rank, self.processes.count
            raise TargetError(
                f"process {rank} of {count} has lost another one: {str(error).partition('. ')[0]}",
                where="torch",
                hint="torchrun names the one that failed; start again from the last checkpoint",
            ) from error


def placement(device: str) -> Placement:
    """Where to train: one device, shared with nobody, or that of this process among several.

    Raises TargetError where the device is not at hand, or the processes do not find each other.
    """
    found, processes = device_of(device), Processes.here()
    if processes.count == 1:
        return Placement(found)
    if found.type == "cuda":
        found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(found)
    return Sharded(found, processes)


def _mesh(device: torch.device, processes: Processes) -> DeviceMesh:
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return init_device_mesh(device.type, (processes.count,))


def _is_of_connections(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "connection", "timed out"))
