"""Work recorded once and replayed: a card is told of its thousand kernels in one call (CUDA graphs).

To start a kernel takes the processor microseconds, often more than the card takes to run it. What is replayed reads and
writes where it did when it was recorded: inputs are copied there, and gradients are added up in place.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

Work = Callable[..., Tensor]
"""Tensors -> a tensor, by the same kernels for all of some shapes. What waits for the card cannot be recorded."""

WARM_UP = 2
"""Calls with some shapes until code is compiled and gradients have their places."""

MOST = 8
"""Recordings that are kept; what has further shapes is done as it comes."""


class Recorder(Protocol):
    """How work is done and recorded on a device."""

    def warm_up(self, work: Work, inputs: tuple[Tensor, ...]) -> Tensor:
        """Do it, as it will be done when it is recorded."""

    def record(self, work: Work, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
        """What does it again, on what those tensors then hold. Nothing is done yet."""


@dataclass(frozen=True)
class Recording:
    """Work on tensors that stay where they are."""

    inputs: tuple[Tensor, ...]
    replay: Callable[[], Tensor]

    def __call__(self, given: tuple[Tensor, ...]) -> Tensor:
        """Do it again for others."""
        for kept, new in zip(self.inputs, given, strict=True):
            kept.copy_(new)
        return self.replay()


class Replay:
    """Work that is recorded when it comes with the same shapes for the third time. What it returns is soon overwritten.

    Shapes tell recordings apart: the types of what is given are always the same. Work that cannot be recorded, as where
    memory runs out, is done as it comes from then on, with a warning.

    Args:
        work: see `Work`.
        recorder: of the device.
    """

    def __init__(self, work: Work, recorder: Recorder) -> None:
        self._work = work
        self._recorder = recorder
        self._most = MOST
        self._calls: Counter[tuple[torch.Size, ...]] = Counter()
        self._recordings: dict[tuple[torch.Size, ...], Recording] = {}

    def __call__(self, *given: Tensor) -> Tensor:
        """Do the work."""
        shapes = tuple(each.shape for each in given)
        self._calls[shapes] += 1
        if shapes not in self._recordings and self._calls[shapes] > WARM_UP and len(self._recordings) < self._most:
            self._record(shapes, given)
        if shapes not in self._recordings:
            return self._recorder.warm_up(self._work, given)
        return self._recordings[shapes](given)

    def _record(self, shapes: tuple[torch.Size, ...], given: tuple[Tensor, ...]) -> None:
        """Record it, or nothing more from now on. What a failed recording holds is let go of before work is done."""
        try:
            inputs = tuple(each.clone() for each in given)
            self._recordings[shapes] = Recording(inputs, self._recorder.record(self._work, inputs))
        except RuntimeError as error:
            warnings.warn(f"a training step cannot be recorded, so it stays slower: {error}", stacklevel=3)
            self._most = len(self._recordings)


class CardRecorder:
    """On the current CUDA card."""

    def __init__(self) -> None:
        self._stream, self._pool = _shared(torch.cuda.current_device())

    def warm_up(self, work: Work, inputs: tuple[Tensor, ...]) -> Tensor:
        """On the stream that will be recorded: libraries prepare themselves once a stream, which cannot be recorded."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            made = work(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        return made

    def record(self, work: Work, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
        """As a CUDA graph."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            made = work(*inputs)

        def replay() -> Tensor:
            graph.replay()
            return made

        return replay


@cache
def _shared(card: int) -> tuple[Any, Any]:
    """The stream and the memory of all recordings on a card: one runs at a time, and nothing of it is read later.

    Memory that is given back on a stream is given out on that stream alone.
    """
    return torch.cuda.Stream(card), torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]
