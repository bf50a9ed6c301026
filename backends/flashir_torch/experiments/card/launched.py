"""The stage `kernels`: each kernel of the core of a layer by itself, with its blocks and with others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from flashir_torch.experiments.card.exactness import Core, results
from flashir_torch.experiments.card.setting import Setting
from flashir_torch.experiments.card.stage import Document
from flashir_torch.experiments.pretended_card import Launch, recorded
from flashir_torch.kernels.blocks import GATED, NARROW, Blocks

OTHERS: Mapping[str, tuple[Mapping[str, int], ...]] = {
    "attend": (
        {"rows": 64, "columns": 64, "features": 128, "warps": 4},
        {"rows": 64, "columns": 32, "features": 256, "warps": 4, "stages": 3},
    ),
    "attend_back": ({"rows": 64, "columns": 64, "features": 128, "warps": 4},),
    "rows_back": ({"features": 32, "stages": 3},),
    "states": ({"rows": 64}, {"keys": 32, "features": 128}, {"warps": 8}),  # tiles that still fill a GPU
    "gate_back": ({"features": 256}, {"rows": 16}),
}
"""Blocks to time beside those in use: what differs."""

LONGER: Mapping[str, tuple[Mapping[str, int], ...]] = {"states": ({"segment": 2**30}, {"segment": 8192})}
"""The same for other shapes, whose rows are longer: one pass over whole rows, and two over fewer segments."""


def measure(setting: Setting, known: Document) -> Iterator[Document]:
    """Each launch of a core in use, then the launches of other blocks, most of them at the first shape alone."""
    document: Document = {"kernels": list(known.get("kernels", [])), "failed": dict(known.get("failed", {}))}
    measured = {(row["batch"], row["length"], row["variant"]) for row in document["kernels"]}
    for batch, length in setting.shapes:
        core = Core(batch, length, setting.chunks[0], setting.keys, setting.width)
        for variant, kernel, changes in _variants(first=(batch, length) == setting.shapes[0]):
            if (batch, length, variant) in measured or variant in document["failed"]:
                continue
            try:
                with _blocks(kernel, changes):
                    launches = [launch for launch in _launches(core, setting.device) if kernel in ("", launch.name)]
                    rows = [_row(launch, setting) for launch in launches]
            except Exception as error:  # a compiler raises anything; others must be timed yet
                document["failed"][variant] = f"{type(error).__name__}: {error}"[:500]
                rows = []
            document["kernels"] += [{"batch": batch, "length": length, "variant": variant, **row} for row in rows]
            yield document


def _variants(*, first: bool) -> Iterator[tuple[str, str, Mapping[str, int]]]:
    """A name, the kernel that has other blocks, and what differs; first those in use."""
    yield "in use", "", {}
    for kernel, every in (OTHERS if first else LONGER).items():
        for changes in every:
            words = ", ".join(f"{size} {value}" for size, value in changes.items())
            yield f"{kernel}: {words}", kernel, changes


@contextmanager
def _blocks(kernel: str, changes: Mapping[str, int]) -> Iterator[None]:
    """Give a kernel other blocks for a while."""
    if not kernel:
        yield
        return
    table: dict[str, Blocks] = GATED if kernel in GATED else NARROW
    before = table[kernel]
    table[kernel] = replace(before, **changes)
    try:
        yield
    finally:
        table[kernel] = before


def _launches(core: Core, device: str) -> list[Launch]:
    """Every launch of a core forward and backward, after all of it has run."""
    operands, d_out = core.operands(torch.bfloat16, device), core.gradient(torch.bfloat16, device)
    with recorded(run=True) as launches:
        results(core.kernels, operands, d_out)
    return list(launches)


def _row(launch: Launch, setting: Setting) -> dict[str, Any]:
    samples = setting.samples_ms(launch.again)
    programs = 1
    for size in launch.grid:
        programs *= size
    return {
        "kernel": launch.name,
        "programs": programs,
        "options": {name: value for name, value in launch.options.items() if isinstance(value, (int, bool))},
        "bytes": launch.bytes,
        "samples_ms": samples,
    }


def summary(document: Document) -> Iterator[str]:
    """The time of each kernel, and the bandwidth that it reaches."""
    for row in document["kernels"]:
        ms = median(row["samples_ms"])
        where = f"{row['batch']} x {row['length']}"
        yield f"{where:10} {row['kernel']:12} {ms:7.3f} ms  {row['bytes'] / ms / 1e9:5.2f} TB/s  {row['variant']}"
    for variant, why in document["failed"].items():
        yield f"{variant}: {why.splitlines()[0]}"
