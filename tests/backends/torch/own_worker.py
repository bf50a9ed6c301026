"""One of the processes that torchrun starts for the tests of modules in own code: `own_worker.py OUT`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import flashir
from flashir.models.parameters import unit
from flashir_torch.nn import fully_shard

STEPS = 5
ROWS = 4
MODEL = flashir.model("flash", size="tiny", vocab=31, chunk=16, cumsum="matmul")


def losses(how: str, rank: int = 0, count: int = 1) -> list[float]:
    """The mean loss over all rows at each step, each of `count` processes having its share of them."""
    net: torch.nn.Module = flashir.torch_module(MODEL, {name: array * 0.2 for name, array in unit(MODEL).items()})
    if how == "ddp":
        net = DistributedDataParallel(net)
    if how == "fsdp":
        fully_shard(net)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    random = torch.Generator().manual_seed(0)
    found = []
    for _ in range(STEPS):
        rows = torch.randint(31, (ROWS, 41), generator=random)[rank::count]
        loss = cross_entropy(net(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        mean = loss.detach() / count
        if count > 1:
            distributed.all_reduce(mean)
        found.append(mean.item())
    return found


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    rank, count = distributed.get_rank(), distributed.get_world_size()
    made = {how: losses(how, rank, count) for how in ("ddp", "fsdp")}
    if not rank:
        Path(sys.argv[1]).write_text(json.dumps(made))
    distributed.destroy_process_group()
