"""The stage `ceilings`: the machine, its memory, and the matrix products of a training step through PyTorch."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from statistics import median

import torch
from torch import Tensor

from flashir.bench.record import Machine
from flashir_torch.experiments.card.setting import Setting
from flashir_torch.experiments.card.stage import Document

COPIED = 2**32
"""The bytes of the tensor that is copied."""

QUERY = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw,power.limit,temperature.gpu,memory.used"


def measure(setting: Setting, _: Document) -> Iterator[Document]:
    """The machine, then the bandwidth of a copy, then each product forward and backward."""
    document: Document = {"machine": asdict(Machine.here((setting.target,))), "driver": _driver()}
    yield document
    document["copy"] = _copy(setting)
    yield document
    document["products"] = []
    for name, rows, inner, columns in shapes(setting):
        for direction, samples in _product(setting, rows, inner, columns):
            row = {"name": name, "direction": direction, "rows": rows, "inner": inner, "columns": columns}
            document["products"].append({**row, "samples_ms": samples})
        yield document


def shapes(setting: Setting) -> Iterator[tuple[str, int, int, int]]:
    """Name, rows, inner and columns of a large product, and of those of a layer and of the vocabulary."""
    inside, model = 2 * setting.width + setting.keys, setting.width // 2
    yield "square", setting.square, setting.square, setting.square
    yield "proj_in", setting.tokens, model, inside
    yield "proj_out", setting.tokens, setting.width, model
    yield "vocabulary", setting.tokens, model, 4 * setting.square if setting.is_rehearsal else 32000


def summary(document: Document) -> Iterator[str]:
    """The rates that were reached."""
    if copy := document.get("copy"):
        yield f"copy {2 * copy['bytes'] / median(copy['samples_ms']) / 1e9:.2f} TB/s"
    for row in document.get("products", []):
        flop = 2.0 * row["rows"] * row["inner"] * row["columns"]
        ms = median(row["samples_ms"])
        yield f"{row['name']:10} {row['direction']:13} {ms:8.3f} ms  {flop / ms / 1e9:6.0f} TFLOP/s"


def _copy(setting: Setting) -> Document:
    size = 2**20 if setting.is_rehearsal else COPIED
    source = torch.ones(size // 4, device=setting.device)
    target = torch.empty_like(source)
    return {"bytes": size, "samples_ms": setting.samples_ms(lambda: target.copy_(source))}


def _product(setting: Setting, rows: int, inner: int, columns: int) -> Iterator[tuple[str, list[float]]]:
    """The product, and those of its gradients by x and by the weight, in bfloat16 on random numbers."""
    random = torch.Generator(setting.device).manual_seed(0)

    def new(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device=setting.device).bfloat16()

    x, weight, gradient = new(rows, inner), new(inner, columns), new(rows, columns)
    yield "forward", setting.samples_ms(lambda: x @ weight)
    yield "by x", setting.samples_ms(lambda: gradient @ weight.t())
    yield "by the weight", setting.samples_ms(lambda: x.t() @ gradient)


def _driver() -> dict[str, str]:
    """What the driver says of the card now; empty without one."""
    command = ("nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader")
    try:
        query = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(QUERY.split(","), map(str.strip, query.stdout.splitlines()[0].split(",")), strict=False))
