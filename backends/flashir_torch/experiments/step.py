"""Interleaved training steps of whole models on a GPU in one process: FLASH, Transformer++ and FLASH-pytorch.

    pip install --no-deps --target rival FLASH-pytorch einops rotary-embedding-torch
    PYTHONPATH=rival python -m flashir_torch.experiments.step --out step.json
    python -m flashir_torch.experiments.step --only flash --seq-len 8192 --profile profiles/

Base models of 110M parameters in bfloat16, 2^15 tokens per step, including AdamW. FLASH and Transformer++ are trained
as in `flashir train`. The attention of the latter is `scaled_dot_product_attention`, which uses cuDNN on an H100.
FLASH-pytorch runs under autocast, once eager and once with its layers under `torch.compile`, with the same loss and
PyTorch's AdamW. It has the same architecture but not the same function (see flashir_torch.experiments.layer).
`flashir bench --show step.json` shows the record.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import flashir
from flashir.backends.lowering import Lowering
from flashir.backends.training import AdamW, Batch
from flashir.bench.case import Case, Grid
from flashir.bench.interleaved import interleaved
from flashir.bench.record import Row, new_record
from flashir.errors import TargetError
from flashir.execution.timed_step import LEARNING_RATE
from flashir.experiments.command import count, guarded
from flashir.ir import Graph
from flashir.machine.targets import target as find_target
from flashir.models.parameters import init
from flashir_torch.devices import device_names
from flashir_torch.fusing import summed_loss
from flashir_torch.replay import WARM_UP
from flashir_torch.training import TorchTrainer

OURS = ("flash", "transformer++")
RIVAL, RIVAL_COMPILED = "FLASH-pytorch", "FLASH-pytorch compiled"
SYSTEMS = (*OURS, RIVAL, RIVAL_COMPILED)
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
VOCAB, D_MODEL, DEPTH, CHUNK = 32000, 768, 24, 256
CLIP = 0.1


@dataclass(frozen=True)
class Contestant:
    """A model in training.

    Args:
        row: its row, for one batch and length.
        step: makes a step on a batch, waits for it, and returns the loss before it.
    """

    row: Row
    step: Callable[[Batch], float]


class Bench:
    """All models in training on one GPU, built once and run at every length.

    Args:
        target: a target that a GPU has a record for, such as `torch:h100`.
        tokens: tokens per step.
        only: some of `SYSTEMS`; empty for all.
        models: the models of flashir by name; base models by default.
        device: the device of PyTorch, if it is not that of the target.
    """

    def __init__(
        self,
        target: str,
        tokens: int,
        only: Sequence[str] = (),
        models: Mapping[str, Graph] | None = None,
        device: str | None = None,
    ) -> None:
        self.target, self.tokens, self.only = target, tokens, only or SYSTEMS
        self.device = find_target(target).device if device is None else device
        every = {name: flashir.model(name, size="base") for name in OURS} if models is None else models
        self._models = {name: model for name, model in every.items() if name in self.only}
        self._vocab = min((_vocab(model) for model in every.values()), default=VOCAB)
        self._trainers: dict[tuple[str, int | None, str | None], TorchTrainer] = {}
        rivals = {RIVAL: False, RIVAL_COMPILED: True} if can_compare() and self.device != "cpu" else {}
        self._rivals = {name: RivalStep(compiled=compiled) for name, compiled in rivals.items() if name in self.only}

    def measure(self, seq_len: int, rounds: int, profiles: Path | None = None) -> list[Row]:
        """A row for every contestant at one length, with the memory of its own step.

        Raises TargetError if one does not fit on the GPU, or its loss is not finite.
        """
        contestants, data = self.contestants(seq_len)
        rows = [first_steps(contestant, data) for contestant in contestants]
        if profiles is not None:
            profiles.mkdir(parents=True, exist_ok=True)
            for contestant in contestants:
                path = profiles / f"{re.sub('[^a-zA-Z0-9]+', '-', contestant.row.system)}-{seq_len}.txt"
                table = profiled(contestant, data).table("self_cuda_time_total", row_limit=40, max_name_column_width=70)
                path.write_text(str(table))
        samples = interleaved(
            {contestant.row.system: partial(contestant.step, data) for contestant in contestants}, rounds
        )
        return [replace(row, samples_ms=samples[row.system].ms, heat=1) for row in rows]

    def contestants(self, seq_len: int) -> tuple[list[Contestant], Batch]:
        """Every contestant at one length, and the batch of random tokens that it is trained on. Raises TargetError."""
        torch._dynamo.reset()  # compile every length with static sizes
        batch = max(1, self.tokens // seq_len)
        ids, labels = np.random.default_rng(0).integers(0, self._vocab, (2, batch, seq_len))
        grid = Grid(self._models, (self.target,), (seq_len,), None, self.tokens, training=True, dtypes=("bfloat16",))
        contestants = [self._ours(case) for case in grid.cases()]
        contestants += [self._theirs(name, step, batch, seq_len) for name, step in self._rivals.items()]
        return contestants, Batch((ids,), labels)

    def _ours(self, case: Case) -> Contestant:
        """A contestant of flashir. Raises TargetError if it does not fit on the GPU."""
        row = case.row
        if row.problem:
            raise TargetError(row.problem, where=row.name)
        choice = (row.system, row.chunk, row.cumsum)
        if choice not in self._trainers:
            lowered = Lowering.of(self.target).run(case.graph)
            self._trainers[choice] = TorchTrainer(lowered, init(case.graph), self.device, AdamW(clip=CLIP))
        trainer = self._trainers[choice]
        return Contestant(row, lambda batch: trainer.step([batch], LEARNING_RATE).loss)

    def _theirs(self, name: str, step: RivalStep, batch: int, seq_len: int) -> Contestant:
        return Contestant(Row(name, self.target, batch, seq_len, True, CHUNK, "native", "bf16", step.parameters), step)


class RivalStep:
    """A training step of FLASH-pytorch with the sizes of a base model."""

    def __init__(self, *, compiled: bool) -> None:
        self.net: Any = (
            import_module("flash_pytorch")
            .FLASHTransformer(
                dim=D_MODEL, num_tokens=VOCAB, depth=DEPTH, group_size=CHUNK, causal=True, shift_tokens=False
            )
            .to("cuda")
        )
        for layer in self.net.layers if compiled else ():
            layer.compile()
        self.parameters = sum(parameter.numel() for parameter in self.net.parameters())
        self._optimiser = torch.optim.AdamW(self.net.parameters(), lr=LEARNING_RATE, fused=True)
        self._loss = torch.compile(summed_loss)

    def __call__(self, batch: Batch) -> float:
        """Make a step, and return the loss before it."""
        ids, labels = (torch.tensor(array, device="cuda") for array in (batch.inputs[0], batch.labels))
        with torch.autocast("cuda", torch.bfloat16):
            loss = self._loss(self.net(ids), labels) / batch.wanted
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return float(loss.detach())


def _vocab(model: Graph) -> int:
    size = model.outputs[0].type.shape[-1]
    assert isinstance(size, int)
    return size


def can_compare() -> bool:
    """Whether FLASH-pytorch is installed, with what it needs."""
    return all(find_spec(name) is not None for name in ("flash_pytorch", "rotary_embedding_torch", "einops"))


def first_steps(contestant: Contestant, data: Batch) -> Row:
    """Compile, measure the memory of a step before it is recorded, and record it.

    Without a GPU there is no memory to measure.

    Raises TargetError if the loss is not finite.
    """
    loss = contestant.step(data)
    if not np.isfinite(loss):
        raise TargetError(f"the loss of {contestant.row.name} is {loss}")
    if not torch.cuda.is_available():
        return contestant.row
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(WARM_UP - 1):
        contestant.step(data)
    peak = torch.cuda.max_memory_allocated()
    contestant.step(data)
    return replace(contestant.row, baseline_bytes=before, peak_bytes=peak)


def profiled(contestant: Contestant, data: Batch) -> Any:
    """PyTorch's profile of a step by kernel."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        contestant.step(data)
    return profiler.key_averages()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq-len", type=count, action="append", help=f"{', '.join(map(str, LENGTHS))} by default")
    parser.add_argument("--only", action="append", choices=SYSTEMS, help="default: all")
    parser.add_argument("--tokens", type=count, default=2**15, help="tokens per step")
    parser.add_argument("--rounds", type=count, default=11)
    parser.add_argument("--out", type=Path, help="a file for the record, JSON")
    parser.add_argument("--profile", type=Path, help="a folder for a profile table per system")
    args = parser.parse_args()
    cards = [name for name in device_names() if name not in ("cpu", "cuda")]
    if not cards:
        parser.error("a step needs a CUDA device with a target record, and PyTorch finds none here")
    target = f"torch:{cards[0]}"
    record = new_record({"tokens": args.tokens, "rounds": args.rounds, "model": "base, bfloat16"}, (target,))
    bench = Bench(target, args.tokens, args.only or ())
    for seq_len in args.seq_len or LENGTHS:
        rows = bench.measure(seq_len, args.rounds, args.profile)
        record = replace(record, rows=(*record.rows, *rows))
        _show(rows)
        if args.out is not None:  # after every length, so that an interrupt loses nothing
            record.write(args.out)


def _show(rows: Sequence[Row]) -> None:
    first = rows[0].times
    for row in rows:
        assert first is not None and row.times is not None and row.memory is not None
        lower, upper = row.times.quartiles
        print(
            f"{row.batch:3} x {row.seq_len:5}  {row.system:22} {row.choice:12} {row.times.median:7.1f} ms "
            f"({lower:.1f} to {upper:.1f})  {row.times.ratio(first):.2f} times {rows[0].system}"
            f"   {row.memory / 2**30:5.1f} GiB"
            + ("" if row.predicted_ms is None else f"   predicted {row.predicted_ms:.1f} ms, floor {row.floor_ms:.1f}"),
            flush=True,
        )


if __name__ == "__main__":
    guarded(main)
