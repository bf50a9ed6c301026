"""Trial: a row of the store. A plan without measurements loads this file, and no SQLite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Count = Annotated[int, Meta(ge=1, le=2**32)]
Milliseconds = Annotated[float, Meta(gt=0, le=1e12)]


@dataclass(frozen=True)
class Trial:
    """The measurement of one candidate by one tuner.

    Args:
        model: SHA-256 of the IR text of the settled model, which includes its dtypes.
        target: such as `onnx:cpu`.
        device: the processor that ran it.
        versions: the versions of the libraries, and of the driver if there is one, as JSON.
        training: whether a training step was measured.
        batch: rows.
        seq_len: tokens per row.
        tuning: the id of the tuner; its later trials replace its earlier ones.
        choices: the value of each choice by name, as JSON, for display; the model includes them.
        predicted_ms: predicted milliseconds at that time.
        measured_ms: the median, in milliseconds.
        spread_ms: the interquartile range of the runs, in milliseconds.
        runs: the number of runs.
        date: the time of the measurement, in UTC.
    """

    model: Digest
    target: Name
    device: Name
    versions: Name
    training: bool
    batch: Count
    seq_len: Count
    tuning: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
    choices: Annotated[str, Meta(min_length=2, max_length=1000)]
    predicted_ms: Milliseconds
    measured_ms: Milliseconds
    spread_ms: Annotated[float, Meta(ge=0, le=1e12)]
    runs: Count
    date: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$")]
