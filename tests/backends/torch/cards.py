"""The kernels compiled for a card that need not be there: what the launches would run, and what it takes.

python -m tests.backends.torch.cards 90        # one line of JSON for each kernel
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from flashir_torch.kernels.launch import Mixed

BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


@dataclass(frozen=True)
class Case:
    """Sizes of the op."""

    dtype: str = "bf16"
    chunk: int = 256
    causal: bool = True
    batch: int = 1
    length: int = 4096
    keys: int = 128
    width: int = 1536

    def operands(self) -> tuple[Any, ...]:
        """Without content; v is a part of a wider array, as in a layer."""

        def new(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=TYPES[self.dtype], device="meta")

        keys = (new(self.batch, self.length, self.keys) for _ in range(4))
        wide = new(self.batch, self.length, 2 * self.width + self.keys)
        return (*keys, wide[..., self.width : 2 * self.width], new(self.chunk, self.chunk))

    def run(self) -> None:
        """Forward and backward."""
        shape = (self.batch, self.length, self.width)
        op, operands = (
            Mixed(self.chunk, self.causal, "chunk_mean", shape, self.keys, TYPES[self.dtype]),
            self.operands(),
        )
        op.backward(operands, op.forward(operands))


CASES = (
    *(Case(dtype, chunk) for dtype in ("bf16", "f32") for chunk in (16, 64, 256)),
    *(Case(dtype, batch=32) for dtype in ("bf16", "f16", "f32")),
    *(Case(dtype, 1024, causal=False) for dtype in ("bf16", "f32")),
    *(Case(dtype, length=4095, keys=60, width=1530) for dtype in ("bf16", "f32")),  # nothing aligned
)


class Card:
    """As much of Triton's driver as compiling asks for."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@dataclass(frozen=True)
class Compiled:
    """One kernel: bytes of shared memory that it asks for, bytes of registers that a thread spills."""

    kernel: str
    case: Case
    shared: int
    spilled: int


def compiled(capability: int, cases: tuple[Case, ...]) -> Iterator[Compiled]:
    """Every kernel that the cases launch, once."""
    driver.set_active(Card(capability))
    made: list[tuple[str, Any]] = []

    def launch(kernel: Any, grid: Any) -> Callable[..., None]:
        return lambda *args, **options: made.append((kernel.__name__, kernel.warmup(*args, grid=grid, **options)))

    JITFunction.__getitem__ = launch
    seen = set()
    for case in cases:
        made.clear()
        case.run()
        for name, kernel in made:
            if kernel.hash not in seen:
                seen.add(kernel.hash)
                yield Compiled(name, case, kernel.metadata.shared, spilled(kernel.asm["cubin"]))


def spilled(cubin: bytes) -> int:
    """Bytes of the stack of a thread; 0 where the tool that tells is missing."""
    if not (BINARIES / "cuobjdump").exists():
        return 0
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([BINARIES / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True)
    return int(re.search(r"STACK:(\d+)", told.stdout + told.stderr).group(1))  # type: ignore[union-attr]


if __name__ == "__main__":
    for each in compiled(int(sys.argv[1]), CASES):
        print(json.dumps(asdict(each)), flush=True)
