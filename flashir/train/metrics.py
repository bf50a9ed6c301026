"""The curve of a run: one line of JSON per step, without repetition even if the run is interrupted.

Each line contains a digest of itself, `sha256`, except in files of earlier versions. It is in the field `seconds`,
with everything else that differs between two equal runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from flashir.errors import ArtefactError
from flashir.files.atomic import atomic_write, reading, writing
from flashir.files.foreign import guarded, parse_json
from flashir.files.sealed_json import KEY, digest

Number = Annotated[int, Meta(ge=1)]
CLOCK = "seconds"
HINT = "restore the file, or start a new run from the newest checkpoint"


class Clock(Struct, frozen=True):
    """The time of a step in seconds. Only these numbers differ between equal runs.

    Args:
        step: the whole step, from reading data to the new parameters.
        waited: the part of it spent waiting for data.
    """

    step: float
    waited: float


class Line(Struct, frozen=True):
    """The metrics of one step.

    Args:
        step: the number of the step, from 1.
        tokens: the number of tokens seen so far, including this step.
        loss: mean cross-entropy in nats over the labels of the batch, before the update.
        learning_rate: the learning rate of the step.
        gradient_norm: the L2 norm of the gradient over all parameters, before clipping.
        seconds: the time of the step.
        validation_loss: mean cross-entropy in nats after the step, if measured.
        validation_accuracy: the fraction of labels predicted right after the step, if measured.
    """

    step: Number
    tokens: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: Clock
    validation_loss: float | UnsetType = UNSET
    validation_accuracy: float | UnsetType = UNSET


@dataclass(frozen=True)
class Curve:
    """The file of a run's curve."""

    path: Path

    def append(self, line: Line) -> None:
        """Append a line with one write. A kill leaves the whole line, nothing, or an incomplete last line."""
        with writing(self.path), self.path.open("ab", buffering=0) as file:
            content = as_dict(line)
            file.write(msgspec.json.encode({**content, CLOCK: {**content[CLOCK], KEY: digest(content)}}) + b"\n")

    def sync(self) -> None:
        """Flush all lines to disk."""
        with writing(self.path), self.path.open("ab") as file:
            os.fsync(file.fileno())

    def lines(self) -> Iterator[Line]:
        """Every line. Raises ArtefactError if one is damaged."""
        for number, text in enumerate(self._texts(), 1):
            problem = f"line {number} is damaged"
            content = parse_json(text, self.path, ArtefactError, dict[str, Any], problem=problem, hint=HINT)
            with guarded(self.path, ArtefactError, problem, HINT):
                line, seal = msgspec.convert(content, Line), content[CLOCK].pop(KEY, None)
                if seal is not None and seal != digest(content):
                    raise ValueError("its digest does not match its content")
            yield line

    def cut(self, steps: int) -> None:
        """Keep only the lines of the first `steps` steps, those before a checkpoint.

        Raises:
            ArtefactError: one of those lines is missing.
        """
        lines = list(self._texts())[:steps]
        if len(lines) < steps:
            problem = f"has only {len(lines)} of {steps} steps" if self.path.exists() else "is missing"
            raise ArtefactError(problem, where=str(self.path), hint=HINT)
        atomic_write(self.path, lambda file: file.write(b"".join(lines)))

    def _texts(self) -> Iterator[bytes]:
        """The complete lines. Line n belongs to step n."""
        if not self.path.exists():
            return
        with reading(self.path), self.path.open("rb") as file:
            yield from (text for text in file if text.endswith(b"\n"))


def perplexity(loss: float) -> float:
    """exp of a loss in nats; infinite if it overflows."""
    return exp(loss) if loss < 700 else float("inf")


def as_dict(line: Line) -> dict[str, Any]:
    """The JSON form of a line."""
    fields: dict[str, Any] = msgspec.to_builtins(line)
    return fields
