"""The curve of a run: a line of JSON for every step, each step once whatever happens to the run.

A line has a digest of what it says, `sha256`; those of earlier versions have none. It stands in `seconds`, with all
else in which two runs that are alike differ.
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
HINT = "bring the file back as it was, or begin another run from the newest checkpoint"


class Clock(Struct, frozen=True):
    """What a step took, in seconds; the only numbers of a line that differ from one run to the next.

    Args:
        step: all of it, from asking for the data to the new parameters.
        waited: of these, for data.
    """

    step: float
    waited: float


class Line(Struct, frozen=True):
    """What a step found.

    Args:
        step: its number, from 1.
        tokens: how many the run has seen, this step included.
        loss: mean cross-entropy in nats over the labels of the batch, before the step.
        learning_rate: of the step.
        gradient_norm: of all parameters together, before clipping.
        seconds: what the step took.
        validation_loss: in nats, after the step, where it was measured.
    """

    step: Number
    tokens: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: Clock
    validation_loss: float | UnsetType = UNSET


@dataclass(frozen=True)
class Curve:
    """The file of a run's curve."""

    path: Path

    def append(self, line: Line) -> None:
        """Add a line, with one write: a kill leaves the line whole, or the file without it, or a stump at the end."""
        with writing(self.path), self.path.open("ab", buffering=0) as file:
            said = as_dict(line)
            file.write(msgspec.json.encode({**said, CLOCK: {**said[CLOCK], KEY: digest(said)}}) + b"\n")

    def sync(self) -> None:
        """Have all lines so far on disk."""
        with writing(self.path), self.path.open("ab") as file:
            os.fsync(file.fileno())

    def lines(self) -> Iterator[Line]:
        """Every line. Raises ArtefactError where one is damaged."""
        for number, text in enumerate(self._texts(), 1):
            problem = f"line {number} is damaged"
            said = parse_json(text, self.path, ArtefactError, dict[str, Any], problem=problem, hint=HINT)
            with guarded(self.path, ArtefactError, problem, HINT):
                line, seal = msgspec.convert(said, Line), said[CLOCK].pop(KEY, None)
                if seal is not None and seal != digest(said):
                    raise ValueError("its digest is not that of what it says")
            yield line

    def cut(self, steps: int) -> None:
        """Keep the lines of the first steps, which a checkpoint has seen, and drop what came after it.

        Raises:
            ArtefactError: one of those lines is missing.
        """
        kept = list(self._texts())[:steps]
        if len(kept) < steps:
            left = f"only {len(kept)} of {steps} steps are in it" if self.path.exists() else "is missing"
            raise ArtefactError(left, where=str(self.path), hint=HINT)
        atomic_write(self.path, lambda file: file.write(b"".join(kept)))

    def _texts(self) -> Iterator[bytes]:
        """The lines that end; a step has one, in order, so the line number is that of the step."""
        if not self.path.exists():
            return
        with reading(self.path), self.path.open("rb") as file:
            yield from (text for text in file if text.endswith(b"\n"))


def perplexity(loss: float) -> float:
    """e to a loss in nats; infinite where no float holds it."""
    return exp(loss) if loss < 700 else float("inf")


def as_dict(line: Line) -> dict[str, Any]:
    """A line for machines."""
    found: dict[str, Any] = msgspec.to_builtins(line)
    return found
