"""CUDA graphs: record the kernels of a step once, and replay them in one call.

Launching a kernel takes microseconds, often more than running it. A replay reads and writes the same memory as the
recording: inputs are copied there, and gradients of several batches are accumulated in place.
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
"""Tensors -> a tensor, with the same kernels for equal shapes and without synchronisation, which cannot be recorded."""

Key = tuple[Work, tuple[torch.Size, ...]]
"""Work, and the shapes of its inputs."""

WARM_UP = 2
"""Calls per shape until code is compiled and gradients are allocated."""

MOST = 8
"""The most recordings of the same work; with further shapes it runs eagerly."""


class Recorder(Protocol):
    """Runs and records work on a device."""

    def warm_up(self, work: Work, inputs: tuple[Tensor, ...]) -> Tensor:
        """Run the work in the same way as in a recording."""

    def record(self, work: Work, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
        """Record the work on these tensors. Returns a function that replays it with their current values."""


@dataclass(frozen=True)
class Recording:
    """Recorded work on fixed tensors."""

    inputs: tuple[Tensor, ...]
    replay: Callable[[], Tensor]

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Replay the work with new inputs."""
        for fixed, new in zip(self.inputs, inputs, strict=True):
            fixed.copy_(new)
        return self.replay()


class Replay:
    """Work that is recorded at its third call with the same shapes. Its result is overwritten by the next such call.

    Recordings are selected by shapes; the dtypes must always be the same. If recording fails, for example because
    memory runs out, it warns, and nothing more is recorded.

    Args:
        recorder: the recorder of the device.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._records = True
        self._calls: Counter[Key] = Counter()
        self._recordings: dict[Key, Recording] = {}

    def __call__(self, work: Work, *inputs: Tensor) -> Tensor:
        """Run the work."""
        key = (work, tuple(x.shape for x in inputs))
        self._calls[key] += 1
        if key not in self._recordings and self._calls[key] > WARM_UP and self._has_room(work):
            self._record(key, inputs)
        if key not in self._recordings:
            return self._recorder.warm_up(work, inputs)
        return self._recordings[key](inputs)

    def forget(self) -> bool:
        """Free all recordings and record nothing more, with a warning. Returns whether there were any."""
        freed, self._recordings = bool(self._recordings), {}
        self._records = False
        if freed:
            warnings.warn("memory runs out beside recorded steps: they are freed, and steps stay slower", stacklevel=4)
        return freed

    def _has_room(self, work: Work) -> bool:
        return self._records and sum(recorded is work for recorded, _ in self._recordings) < MOST

    def _record(self, key: Key, inputs: tuple[Tensor, ...]) -> None:
        """Record the work. A failed recording is freed, and nothing more is recorded."""
        try:
            fixed = tuple(x.clone() for x in inputs)
            self._recordings[key] = Recording(fixed, self._recorder.record(key[0], fixed))
        except RuntimeError as error:
            warnings.warn(f"a training step cannot be recorded, so it stays slower: {error}", stacklevel=3)
            self._records = False


class CardRecorder:
    """A recorder on the current CUDA device."""

    def __init__(self) -> None:
        self._stream, self._pool = _shared(torch.cuda.current_device())

    def warm_up(self, work: Work, inputs: tuple[Tensor, ...]) -> Tensor:
        """Run on the stream of the recording: libraries initialise per stream, which cannot be recorded."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = work(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def record(self, work: Work, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
        """Record a CUDA graph."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = work(*inputs)

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


@cache
def _shared(card: int) -> tuple[Any, Any]:
    """The stream and the memory pool of all recordings on a GPU. Only one runs at a time, so they can share memory.

    Memory freed on a stream is reused only on that stream.
    """
    return torch.cuda.Stream(card), torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]
