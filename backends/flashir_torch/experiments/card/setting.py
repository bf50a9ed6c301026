"""Where and how much a run measures: a GPU at full size, or a rehearsal on a processor at toy size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from flashir.errors import TargetError
from flashir_torch.devices import device_names
from flashir_torch.replay import CardRecorder

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """What all stages share.

    Args:
        target: the target that models are planned and lowered for, such as `torch:h200`.
        device: the device of PyTorch: `cuda`; `cpu` in a rehearsal, where Triton interprets the kernels.
        rounds: the samples of every time.
        systems: the settings of the systems of the zoo whose training steps are timed.
        tokens, lengths: tokens a step, and tokens a row, the most important first.
        curve: the settings of the flash model whose losses are compared.
        curve_rows, curve_length, steps: its batch, and how many steps it is trained.
        chunks, keys, width: the sizes of the core of a layer, the first chunk where its kernels are timed.
        shapes: rows, and tokens a row, where its kernels are timed.
        square: the side of the largest matrix product.
    """

    target: str
    device: str
    rounds: int
    systems: Mapping[str, Settings]
    tokens: int
    lengths: tuple[int, ...]
    curve: Settings
    curve_rows: int
    curve_length: int
    steps: int
    chunks: tuple[int, ...]
    keys: int
    width: int
    shapes: tuple[tuple[int, int], ...]
    square: int

    @property
    def is_rehearsal(self) -> bool:
        """Whether the times mean nothing."""
        return self.device == "cpu"

    def samples_ms(self, work: Callable[[], object], calls: int = 10) -> list[float]:
        """The milliseconds of a call in each round. On a GPU a round is some calls, recorded as one CUDA graph."""
        if self.is_rehearsal:
            return [_elapsed_ms(work) for _ in range(self.rounds)]
        recorder = CardRecorder()

        def repeated() -> torch.Tensor:
            for _ in range(calls):
                work()
            return torch.empty(0, device=self.device)

        recorder.warm_up(repeated, ())
        replay = recorder.record(repeated, ())
        replay()
        return [_on_card_ms(replay) / calls for _ in range(self.rounds)]


def _elapsed_ms(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return 1e3 * (perf_counter() - start)


def _on_card_ms(work: Callable[[], object]) -> float:
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    first.record()
    work()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last))


def of_card() -> Setting:
    """The full size, for the GPU of this machine. Raises TargetError if none has a target record."""
    cards = [name for name in device_names() if name not in ("cpu", "cuda")]
    if not cards:
        raise TargetError(
            "PyTorch finds no CUDA device with a target record here",
            hint="--rehearse runs every stage on the processor, at toy size",
        )
    return Setting(
        f"torch:{cards[0]}",
        "cuda",
        rounds=11,
        systems={"flash": {"size": "base"}, "transformer++": {"size": "base"}},
        tokens=2**15,
        lengths=(8192, 32768, 1024, 2048),
        curve={"d_model": 256, "depth": 2, "vocab": 1000, "chunk": 256},
        curve_rows=2,
        curve_length=2048,
        steps=20,
        chunks=(256, 64),
        keys=128,
        width=1536,
        shapes=((4, 8192), (1, 32768)),
        square=8192,
    )


def rehearsal() -> Setting:
    """Every stage at sizes that Triton's interpreter runs in seconds."""
    tiny = {"size": "tiny", "d_model": 16, "depth": 1, "vocab": 11}
    return Setting(
        "torch:h100",
        "cpu",
        rounds=2,
        systems={"flash": {**tiny, "key_dim": 32}, "transformer++": {**tiny, "heads": 2}},
        tokens=64,
        lengths=(64, 32),
        curve={"d_model": 16, "depth": 1, "vocab": 11, "key_dim": 32, "chunk": 64},
        curve_rows=1,
        curve_length=70,
        steps=2,
        chunks=(64,),
        keys=32,
        width=48,
        shapes=((1, 70), (1, 64)),
        square=64,
    )
