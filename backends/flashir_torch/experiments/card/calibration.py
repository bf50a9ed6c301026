"""The stage `calibration`: samples of every micro-kernel, from which a target record can be fitted later, anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from flashir.bench.record import Predictor
from flashir.machine.calibrate import AGAIN, ROUNDS, fit, lowered_kernels, samples, timing
from flashir.machine.microbenchmarks import kernels
from flashir.machine.profile import profile_key
from flashir.machine.targets import target as find_target
from flashir_torch.experiments.card.setting import Setting
from flashir_torch.experiments.card.stage import Document

REHEARSED = "torch:cpu"
"""A rehearsal measures the micro-kernels of a processor, which are smaller."""


def measure(setting: Setting, _: Document) -> Iterator[Document]:
    """Every round of every micro-kernel, and the record that they are for."""
    name = REHEARSED if setting.is_rehearsal else setting.target
    record = find_target(name, calibrated=False)
    rounds, again = (setting.rounds, 0) if setting.is_rehearsal else (ROUNDS, AGAIN)
    times = samples(lowered_kernels(record), record, rounds, again)
    yield {
        "target": name,
        "key": profile_key(record),
        "record": asdict(Predictor.of(name)),
        "samples_ms": {kernel.name: list(ms) for kernel, ms in times.items()},
    }


def fitted(document: Document) -> dict[str, float]:
    """The numbers of the record that explain the samples. Nothing is measured, so this needs no GPU."""
    record = find_target(document["target"], calibrated=False)
    timings = [
        timing(kernel, document["samples_ms"][kernel.name])
        for kernel in kernels(record)
        if kernel.name in document["samples_ms"]
    ]
    return fit(record, lowered_kernels(record), {timing.kernel: timing.ms for timing in timings})


def summary(document: Document) -> Iterator[str]:
    """The numbers that are fitted, beside those of the record."""
    record = find_target(document["target"], calibrated=False)
    for name, value in fitted(document).items():
        yield f"{name:16} {value:10.4g}   the record says {record.number(name):.4g}"
