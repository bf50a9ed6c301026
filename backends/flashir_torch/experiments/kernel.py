"""The kernel for mixed_chunk_attention against the decomposed op under `torch.compile`, interleaved, on CUDA.

    python -m flashir_torch.experiments.kernel
    python -m flashir_torch.experiments.kernel --seq-len 4096 --seq-len 65536 --dtype bfloat16 --batch 8 --chunk 256

Results are compared before timing. The bound is the roofline of the target: the longer of the products at the peak rate
and of moving each operand and result once. A training step has three times the products of the forward pass, and moves
operands twice and their gradients once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flashir.backends.lowering import Lowering
from flashir.bench.interleaved import Samples, interleaved
from flashir.cost import Target
from flashir.errors import TargetError
from flashir.ir import Builder, DType, Graph
from flashir.machine.targets import target
from flashir_torch.claims import claims
from flashir_torch.devices import device_names
from flashir_torch.emit import module
from flashir_torch.types import TYPES

KERNEL = "kernel"
PARTS = ("matmul", "native")
DTYPES = {"float32": DType.F32, "bfloat16": DType.BF16}
ROUNDING = {"float32": 1e-4, "bfloat16": 5e-2}
"""The tolerance relative to the largest value; the decomposed op rounds more often than the kernel."""

CALLS = 10
"""Calls per round, so that the GPU does not wait for the CPU between them."""


@dataclass(frozen=True)
class Sizes:
    """The op on [b, t, s] and [b, t, e]."""

    dtype: str
    seq_len: int
    batch: int = 1
    keys: int = 128
    width: int = 1536
    chunk: int = 256
    causal: bool = True

    def graph(self, cumsum: str) -> Graph:
        """A model of only the op."""
        b, dtype = Builder("mixed"), DTYPES[self.dtype]
        keys = [b.input(f"x{i}", f"{dtype}[B, T, {self.keys}]") for i in range(4)]
        v, bias = b.input("v", f"{dtype}[B, T, {self.width}]"), b.input("bias", f"{dtype}[{self.chunk}, {self.chunk}]")
        attrs: dict[str, Any] = {"chunk": self.chunk, "causal": self.causal, "cumsum": cumsum}
        return b.finish(b.chunked_recurrence(v, *keys[:2], bias, *keys[2:], **attrs))

    def operands(self, device: str) -> list[Tensor]:
        """Random operands, scaled like those of a layer."""
        shapes = [(self.batch, self.seq_len, self.keys)] * 4
        shapes += [(self.batch, self.seq_len, self.width), (self.chunk, self.chunk)]  # type: ignore[list-item]
        random = torch.Generator(device).manual_seed(0)
        operands = [torch.randn(shape, generator=random, device=device) for shape in shapes]
        operands[0] /= self.chunk
        return [x.to(TYPES[DTYPES[self.dtype]]).requires_grad_() for x in operands]

    def bound(self, card: Target, *, step: bool) -> float:
        """The roofline bound in milliseconds."""
        tokens, size = self.batch * self.seq_len, DTYPES[self.dtype].bytes
        seen = (self.chunk + 1) / 2 if self.causal else self.chunk
        flops = 2.0 * tokens * (seen * (self.keys + self.width) + 2 * self.keys * self.width)
        operands = tokens * (4 * self.keys + self.width) * size
        result = tokens * self.width * size
        moved = operands + result if not step else 3 * operands + 2 * result
        peak = card.peak[str(DTYPES[self.dtype])]
        return 1e3 * max((3 if step else 1) * flops / peak, moved / card.bandwidth)


@dataclass(frozen=True)
class Result:
    """The times of one contestant: forward without gradients, and forward and backward for every operand."""

    forward: Samples
    step: Samples


def contestants(sizes: Sizes) -> Iterator[tuple[str, nn.Module]]:
    """The kernel, and the decomposed op with every strategy without a loop."""
    yield KERNEL, _lowered(sizes.graph("scan"), "cuda")
    for cumsum in PARTS if sizes.causal else PARTS[:1]:
        yield f"parts, {cumsum}", _lowered(sizes.graph(cumsum), "cpu")


def check(sizes: Sizes, nets: dict[str, Callable[..., Tensor]], operands: list[Tensor]) -> None:
    """Raise TargetError if results or gradients differ by more than the tolerance."""
    reference: list[Tensor] | None = None
    for name, net in nets.items():
        out = net(*operands)
        results = [out.detach(), *torch.autograd.grad(out, operands, torch.ones_like(out))]
        for got, want in zip(results, reference or results, strict=True):
            error = float((got - want).abs().max() / want.abs().max().clamp(min=1e-30))
            if not error < ROUNDING[sizes.dtype]:
                raise TargetError(f"{name} differs from the kernel by {error:.1e} of the largest value, {sizes}")
        reference = reference or results


def measure(sizes: Sizes, rounds: int) -> dict[str, Result]:
    """Time every contestant on the GPU. Raises TargetError if they differ."""
    operands = sizes.operands("cuda")
    nets: dict[str, Callable[..., Tensor]] = {
        name: torch.compile(net.to("cuda"), dynamic=False) for name, net in contestants(sizes)
    }
    check(sizes, nets, operands)
    gradient = torch.ones_like(operands[4])
    forward = interleaved({name: _forward(net, operands) for name, net in nets.items()}, rounds)
    step = interleaved({name: _step(net, operands, gradient) for name, net in nets.items()}, rounds)
    return {name: Result(_per_call(forward[name]), _per_call(step[name])) for name in nets}


def _lowered(graph: Graph, device: str) -> nn.Module:
    return module(Lowering(f"torch:{device}", partial(claims, device=device)).run(graph), {})


def _forward(net: Callable[..., Tensor], operands: list[Tensor]) -> Callable[[], object]:
    def run() -> None:
        with torch.no_grad():
            for _ in range(CALLS):
                net(*operands)
        torch.cuda.synchronize()

    return run


def _step(net: Callable[..., Tensor], operands: list[Tensor], gradient: Tensor) -> Callable[[], object]:
    def run() -> None:
        for _ in range(CALLS):
            torch.autograd.grad(net(*operands), operands, gradient)
        torch.cuda.synchronize()

    return run


def _per_call(samples: Samples) -> Samples:
    return replace(samples, ms=tuple(ms / CALLS for ms in samples.ms))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq-len", type=int, action="append", help="default: 4096, 16384 and 65536")
    parser.add_argument("--dtype", choices=DTYPES, action="append", help="default: both")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--keys", type=int, default=128)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--causal", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    settings = vars(parser.parse_args())
    if not torch.cuda.is_available():
        parser.error("the kernel needs a CUDA device, and PyTorch finds none here")
    lengths, dtypes = settings.pop("seq_len") or [4096, 16384, 65536], settings.pop("dtype") or list(DTYPES)
    rounds, as_json = settings.pop("rounds"), settings.pop("json")
    card = next((target(f"torch:{name}") for name in device_names() if name not in ("cpu", "cuda")), None)
    for sizes in (Sizes(dtype, length, **settings) for dtype in dtypes for length in lengths):
        _show(sizes, measure(sizes, rounds), card, as_json=as_json)
        torch._dynamo.reset()


def _show(sizes: Sizes, results: dict[str, Result], card: Target | None, *, as_json: bool) -> None:
    bounds = {kind: None if card is None else sizes.bound(card, step=kind == "step") for kind in ("forward", "step")}
    rows: dict[str, dict[str, Any]] = {name: {} for name in results}
    for name, result in results.items():
        for kind, bound in bounds.items():
            samples, kernel = getattr(result, kind), getattr(results[KERNEL], kind)
            share = None if bound is None else bound / samples.median
            rows[name][kind] = {"ms": samples.median, "times_kernel": samples.ratio(kernel), "of_roofline": share}
    if as_json:
        print(json.dumps({**asdict(sizes), "card": torch.cuda.get_device_name(), "rows": rows}))
        return
    print(f"{torch.cuda.get_device_name()}, " + ", ".join(f"{name} {value}" for name, value in asdict(sizes).items()))
    for name, row in rows.items():
        cells = (
            f"{kind} {figures['ms']:8.3f} ms ({figures['times_kernel']:.2f} times the kernel"
            + ("" if figures["of_roofline"] is None else f", {figures['of_roofline']:.0%} of the roofline")
            + ")"
            for kind, figures in row.items()
        )
        print(f"  {name:14}  " + "   ".join(cells))


if __name__ == "__main__":
    main()
