"""What the kernels take on a GPU, by Triton's own ptxas, without a GPU: registers, spills, shared memory, products.

    python -m flashir_torch.experiments.machine_code
    python -m flashir_torch.experiments.machine_code --capability 80 --only bf16 --json

One row for each kernel and each set of operands that it is compiled for. `stack` is the bytes that a thread spills or
keeps for calls, `shared` the bytes of shared memory of a program. `wgmma` counts the matrix instructions of whole warp
groups (HGMMA, from 9.0 on), `mma` those of single warps (HMMA).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import triton
from torch import Tensor
from triton.runtime import driver

from flashir.backends.training import AdamW
from flashir.errors import TargetError
from flashir.experiments.command import guarded
from flashir_torch.experiments.pretended_card import Card, Launch, recorded
from flashir_torch.kernels import bodies
from flashir_torch.kernels.adamw import Update
from flashir_torch.kernels.blocks import HOPPER
from flashir_torch.kernels.gated_launch import Gated
from flashir_torch.kernels.launch import Mixed

BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
CAPABILITIES = (80, 86, 89, 90, 120)
TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


@dataclass(frozen=True)
class Case:
    """Sizes of the op, and whether its operands are aligned."""

    dtype: str = "bf16"
    chunk: int = 256
    causal: bool = True
    batch: int = 1
    length: int = 4096
    keys: int = 128
    width: int = 1536

    def run(self, capability: tuple[int, int] = HOPPER) -> None:
        """Launch every kernel, forward and backward, on operands without content; v is a part of a wider tensor."""
        dtype = TYPES[self.dtype]
        keys = [_new(dtype, self.batch, self.length, self.keys) for _ in range(4)]
        wide = _new(dtype, self.batch, self.length, 2 * self.width + self.keys)
        v, bias = wide[..., self.width : 2 * self.width], _new(dtype, self.chunk, self.chunk)
        quad_q, quad_k, lin_q, lin_k = keys
        sizes = self.batch, self.length, self.width
        op = Mixed(self.chunk, self.causal, "chunk_mean", sizes, self.keys, dtype, capability)
        operands = (quad_q, quad_k, lin_q, lin_k, v, bias)
        out, states = op.forward(operands)
        op.backward(operands, states, out)

    def __str__(self) -> str:
        causal = "" if self.causal else ", both ways"
        return f"{self.dtype} {self.batch} x {self.length}, chunk {self.chunk}, {self.keys} x {self.width}{causal}"


@dataclass(frozen=True)
class LayerCase:
    """Sizes of the core of a layer, gated_mixed_attention."""

    chunk: int = 256
    batch: int = 4
    length: int = 8192
    keys: int = 128
    width: int = 1536

    def run(self, capability: tuple[int, int] = HOPPER) -> None:
        """Launch every kernel, forward and backward, on operands without content."""
        narrow, wide = TYPES["bf16"], torch.float32
        pre = _new(narrow, self.batch, self.length, 2 * self.width + self.keys)
        shift, gamma, bias = (
            _new(narrow, *shape) for shape in (pre.shape[2:], (4, self.keys), (self.chunk, self.chunk))
        )
        angle = _new(wide, self.length, self.keys // 2)
        sizes = self.batch, self.length, self.width
        op = Gated(self.chunk, "chunk_mean", 1 / self.chunk, sizes, self.keys, narrow, capability)
        gated, kept = op.forward(pre, shift, gamma, gamma, bias, angle, angle)
        op.backward(gated, gated, kept, pre, shift, gamma, angle, angle)

    def __str__(self) -> str:
        return f"layer, bf16 {self.batch} x {self.length}, chunk {self.chunk}, {self.keys} x {self.width}"


@dataclass(frozen=True)
class UpdateCase:
    """A step of AdamW on the weights of a layer, whatever their sizes."""

    def run(self, capability: tuple[int, int] = HOPPER) -> None:
        """Launch every kernel on parameters without content; their blocks are those of every GPU."""
        weights = [_new(torch.float32, *shape) for shape in ((768, 3200), (3200,), ())]
        count = _new(torch.float32)
        Update(weights, weights, weights, count, AdamW(clip=1.0))(weights, count)

    def __str__(self) -> str:
        return "step of AdamW"


AnyCase = Case | LayerCase | UpdateCase
CASES: tuple[AnyCase, ...] = (
    LayerCase(),
    LayerCase(batch=1, length=32768),
    LayerCase(chunk=64, keys=64, width=1530, length=4095),
    Case(batch=4, length=8192),
    Case(length=32768),
    *(Case(dtype, chunk) for dtype in ("bf16", "f32") for chunk in (16, 64, 256)),
    *(Case(dtype, batch=32) for dtype in ("bf16", "f16", "f32")),
    *(Case(dtype, 1024, causal=False) for dtype in ("bf16", "f32")),
    *(Case(dtype, length=4095, keys=60, width=1530) for dtype in ("bf16", "f32")),  # not aligned
    UpdateCase(),
)


@dataclass(frozen=True)
class Usage:
    """What one compiled kernel takes."""

    kernel: str
    case: str
    warps: int
    registers: int
    stack: int
    shared: int
    wgmma: int
    mma: int


def usages(capability: int, cases: Sequence[AnyCase]) -> Iterator[Usage]:
    """Every kernel that the cases launch, each compiled once.

    Raises TargetError if Triton interprets its kernels, or has no compiler for NVIDIA GPUs.
    """
    check_compiler()
    driver.set_active(Card(capability))
    seen = set()
    for case in cases:
        for launch in launches(partial(case.run, divmod(capability, 10))):
            compiled = launch.kernel.warmup(*launch.args, grid=launch.grid, **launch.options)
            if compiled.hash not in seen:
                seen.add(compiled.hash)
                counts = _read(compiled.asm["cubin"])
                yield Usage(
                    launch.name, str(case), compiled.metadata.num_warps, shared=compiled.metadata.shared, **counts
                )


def launches(run: Callable[[], object]) -> list[Launch]:
    """The launches of some work on tensors without content."""
    with recorded() as recording:
        run()
    return recording


def check_compiler() -> None:
    """Raise TargetError if kernels cannot be compiled here."""
    if not isinstance(bodies.attend, triton.JITFunction):
        raise TargetError("Triton interprets its kernels", where="torch", hint="unset TRITON_INTERPRET")
    missing = [name for name in ("ptxas", "cuobjdump") if not (BINARIES / name).exists()]
    if missing:
        raise TargetError(f"this Triton has no {' and no '.join(missing)} in {BINARIES}", where="torch")


def _new(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _read(cubin: bytes) -> dict[str, int]:
    """Registers, stack and matrix instructions of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, code = (
            subprocess.run([BINARIES / "cuobjdump", option, file.name], capture_output=True, text=True, check=True)
            for option in ("-res-usage", "-sass")
        )
    sizes = dict(re.findall(r"(REG|STACK):(\d+)", usage.stdout + usage.stderr))
    wgmma, mma = (len(re.findall(rf"\b{name}\b", code.stdout)) for name in ("HGMMA", "HMMA"))
    return {"registers": int(sizes["REG"]), "stack": int(sizes["STACK"]), "wgmma": wgmma, "mma": mma}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--capability", type=int, choices=CAPABILITIES, default=90, help="such as 80 for 8.0; default: 90"
    )
    parser.add_argument("--only", default="", help="only cases whose line contains this text, such as 'bf16 4 x 8192'")
    parser.add_argument("--json", action="store_true", help="one object a line")
    args = parser.parse_args()
    cases = tuple(case for case in CASES if args.only in str(case))
    if not cases:
        parser.error(f"no case contains {args.only!r}, known are: {'; '.join(map(str, CASES))}")
    if not args.json:
        print(f"{'kernel':16} {'warps':>5} {'registers':>9} {'stack':>5} {'shared':>7} {'wgmma':>5} {'mma':>5}  case")
    for usage in usages(args.capability, cases):
        numbers = f"{usage.warps:5} {usage.registers:9} {usage.stack:5} {usage.shared:7} {usage.wgmma:5} {usage.mma:5}"
        print(json.dumps(asdict(usage)) if args.json else f"{usage.kernel:16} {numbers}  {usage.case}", flush=True)


if __name__ == "__main__":
    guarded(main)
