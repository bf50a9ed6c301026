"""A training step of whole models on a card, in turn, in one process: FLASH, Transformer++ and FLASH-pytorch.

    pip install --no-deps --target rival FLASH-pytorch einops rotary-embedding-torch
    PYTHONPATH=rival python -m flashir_torch.experiments.step --out step.json
    python -m flashir_torch.experiments.step --only flash --seq-len 8192 --profile profiles/

Base models of 110M parameters in bfloat16, 2^15 tokens a step, AdamW included. FLASH and Transformer++ are trained as
`flashir train` does it, the attention of the latter by `scaled_dot_product_attention`, which on an H100 takes that of
cuDNN. FLASH-pytorch runs under autocast, once as it comes and once with its layers under `torch.compile`, with the same
loss and the AdamW of PyTorch; it is the same architecture, not one function (see bench_layer). `flashir bench --show
step.json` shows what was written.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
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
from flashir.backends.protocols import AdamW, Batch
from flashir.bench.case import Case, Grid
from flashir.bench.interleaved import interleaved
from flashir.bench.record import Row, new_record
from flashir.errors import TargetError
from flashir.execution.timed_step import LEARNING_RATE
from flashir.experiments.command import count, guarded
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
        row: what is known of it, for one batch and length.
        step: one step on a batch, waited for; the loss before it.
    """

    row: Row
    step: Callable[[Batch], float]


class Bench:
    """All models in training on one card, built once and run at every length.

    Args:
        target: a card with a record, such as `torch:h100`.
        tokens: of a step.
        only: some of `SYSTEMS`; all where none is named.
    """

    def __init__(self, target: str, tokens: int, only: Sequence[str] = ()) -> None:
        self.target, self.tokens, self.only = target, tokens, only or SYSTEMS
        self._trainers: dict[tuple[str, int | None, str | None], TorchTrainer] = {}
        rivals = {RIVAL: False, RIVAL_COMPILED: True} if _can_compare() else {}
        self._rivals = {name: RivalStep(compiled=each) for name, each in rivals.items() if name in self.only}

    def measure(self, seq_len: int, rounds: int, profiles: Path | None = None) -> list[Row]:
        """A row for every contestant at one length; how much memory each takes is that of its own step.

        Raises TargetError where one does not fit the card, or its loss is not finite.
        """
        torch._dynamo.reset()  # every length is compiled as if there were no other: with all sizes known
        batch = max(1, self.tokens // seq_len)
        random = np.random.default_rng(0)
        ids, labels = random.integers(0, VOCAB, (2, batch, seq_len))
        given = Batch((ids,), labels)
        models = {name: flashir.model(name, size="base") for name in OURS if name in self.only}
        grid = Grid(models, (self.target,), (seq_len,), None, self.tokens, training=True, dtype="bfloat16")
        found = [self._ours(case) for case in grid.cases()]
        found += [self._theirs(name, step, batch, seq_len) for name, step in self._rivals.items()]
        rows = [_first(each, given) for each in found]
        if profiles is not None:
            profiles.mkdir(parents=True, exist_ok=True)
            for each in found:
                path = profiles / f"{re.sub('[^a-zA-Z0-9]+', '-', each.row.system)}-{seq_len}.txt"
                path.write_text(_profiled(each, given))
        samples = interleaved({each.row.system: partial(each.step, given) for each in found}, rounds)
        return [replace(row, samples_ms=samples[row.system].ms, heat=1) for row in rows]

    def _ours(self, case: Case) -> Contestant:
        """Raises TargetError where it does not fit the card."""
        row, device = case.row, find_target(self.target).device
        if row.problem:
            raise TargetError(row.problem, where=row.name)
        choice = (row.system, row.chunk, row.cumsum)
        if choice not in self._trainers:
            lowered = Lowering.of(self.target).run(case.graph)
            self._trainers[choice] = TorchTrainer(lowered, init(case.graph), device, AdamW(clip=CLIP))
        trainer = self._trainers[choice]
        return Contestant(row, lambda given: trainer.step([given], LEARNING_RATE).loss)

    def _theirs(self, name: str, step: RivalStep, batch: int, seq_len: int) -> Contestant:
        return Contestant(Row(name, self.target, batch, seq_len, True, CHUNK, "native", "bf16", step.parameters), step)


class RivalStep:
    """A step of FLASH-pytorch in the sizes of a base model."""

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
        self.parameters = sum(each.numel() for each in self.net.parameters())
        self._optimiser = torch.optim.AdamW(self.net.parameters(), lr=LEARNING_RATE, fused=True)
        self._loss = torch.compile(summed_loss)

    def __call__(self, given: Batch) -> float:
        """The loss before the step."""
        ids, labels = (torch.tensor(array, device="cuda") for array in (given.inputs[0], given.labels))
        with torch.autocast("cuda", torch.bfloat16):
            loss = self._loss(self.net(ids), labels) / given.wanted
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return float(loss.detach())


def _can_compare() -> bool:
    return all(find_spec(name) is not None for name in ("flash_pytorch", "rotary_embedding_torch", "einops"))


def _first(each: Contestant, given: Batch) -> Row:
    """Compile, see what memory a step takes that is not recorded, and record it.

    Raises TargetError where the loss is not finite.
    """
    loss = each.step(given)
    if not np.isfinite(loss):
        raise TargetError(f"the loss of {each.row.name} is {loss}")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(WARM_UP - 1):
        each.step(given)
    peak = torch.cuda.max_memory_allocated()
    each.step(given)
    return replace(each.row, baseline_bytes=before, peak_bytes=peak)


def _profiled(each: Contestant, given: Batch) -> str:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        each.step(given)
    return str(found.key_averages().table(sort_by="self_cuda_time_total", row_limit=40, max_name_column_width=70))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq-len", type=count, action="append", help=f"{', '.join(map(str, LENGTHS))} unless told")
    parser.add_argument("--only", action="append", choices=SYSTEMS, help="all unless told")
    parser.add_argument("--tokens", type=count, default=2**15, help="a step")
    parser.add_argument("--rounds", type=count, default=11)
    parser.add_argument("--out", type=Path, help="a file for the record, JSON")
    parser.add_argument("--profile", type=Path, help="a folder for tables of what runs on the card, one a system")
    given = parser.parse_args()
    cards = [name for name in device_names() if name not in ("cpu", "cuda")]
    if not cards:
        parser.error("a step is timed on a CUDA card that has a record, and PyTorch finds none here")
    target = f"torch:{cards[0]}"
    record = new_record({"tokens": given.tokens, "rounds": given.rounds, "model": "base, bfloat16"}, (target,))
    bench = Bench(target, given.tokens, given.only or ())
    for seq_len in given.seq_len or LENGTHS:
        rows = bench.measure(seq_len, given.rounds, given.profile)
        record = replace(record, rows=(*record.rows, *rows))
        _show(rows)
        if given.out is not None:  # after every length, so that what was measured is kept
            record.write(given.out)


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
