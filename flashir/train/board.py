"""Writes the curve of a run for TensorBoard, if it is installed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from flashir.files.atomic import writing
from flashir.train.metrics import Line, perplexity


class Board(Protocol):
    """Displays the lines of a curve."""

    def add(self, line: Line) -> None:
        """Add a line."""
        ...


@contextmanager
def board(folder: Path, first: int) -> Iterator[Board]:
    """A board for the steps from `first` on. Later steps of an interrupted run are discarded.

    Raises ArtefactError if it cannot be written.
    """
    if not installed():
        yield _Nothing()
        return
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    with writing(folder):
        writer = EventFileWriter(str(folder))
    writer.add_event(Event(wall_time=time.time(), step=first, session_log=SessionLog(status=SessionLog.START)))
    try:
        yield _Events(writer, folder)
    finally:
        with writing(folder):
            writer.close()


def installed() -> bool:
    """Whether TensorBoard is installed."""
    return find_spec("tensorboard") is not None


class _Nothing:
    def add(self, line: Line) -> None:
        pass


class _Events:
    def __init__(self, writer: Any, folder: Path) -> None:
        self._writer = writer
        self._folder = folder

    def add(self, line: Line) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in _shown(line).items()]
        with writing(self._folder):
            self._writer.add_event(Event(wall_time=time.time(), step=line.step, summary=Summary(value=values)))


def _shown(line: Line) -> dict[str, float]:
    numbers = {
        "train/loss": line.loss,
        "train/perplexity": perplexity(line.loss),
        "train/gradient_norm": line.gradient_norm,
        "train/learning_rate": line.learning_rate,
        "seconds/step": line.seconds.step,
        "seconds/waited": line.seconds.waited,
    }
    if isinstance(line.validation_loss, float):
        numbers |= {
            "validation/loss": line.validation_loss,
            "validation/perplexity": perplexity(line.validation_loss),
        }
    if isinstance(line.validation_accuracy, float):
        numbers["validation/accuracy"] = line.validation_accuracy
    return numbers
