"""The stage `exact`: kernels against float64 autograd of their parts on the processor, on outputs that begin as NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from flashir.backends.lowering import Lowering
from flashir.backends.training import NO_LABEL, AdamW
from flashir.ir import Builder
from flashir_torch.emit import module
from flashir_torch.experiments.card.setting import Setting
from flashir_torch.experiments.card.stage import Document
from flashir_torch.experiments.card.updates import update_errors
from flashir_torch.kernels.gated import gated_mixed_attention
from flashir_torch.kernels.loss import loss_over_logits

LEARNED = ("pre", "shift", "gamma", "beta", "bias")
"""The operands with a gradient, which come first."""

RUNS = 5
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1.5e-2}
"""The norm of the difference, relative to the norm of the reference."""


@dataclass(frozen=True)
class Core:
    """The core of a layer: the sizes and attributes of gated_mixed_attention."""

    batch: int
    length: int
    chunk: int
    keys: int
    width: int
    lin_norm: str = "chunk_mean"

    @property
    def scale(self) -> float:
        """The factor of quad_q."""
        return 1 / self.chunk

    def operands(self, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
        """Random operands, sin and cos last."""
        random = torch.Generator().manual_seed(0)

        def new(*shape: int) -> Tensor:
            return torch.randn(shape, generator=random)

        angles = torch.arange(self.length)[:, None] * torch.rand(self.keys // 2, generator=random)
        pre, gamma, beta = new(self.batch, self.length, self.inside), new(4, self.keys), new(4, self.keys)
        narrow = [pre, 0.1 * new(self.inside), gamma, beta, 0.3 * new(self.chunk, self.chunk)]
        return [x.to(device) for x in (*(x.to(dtype) for x in narrow), angles.sin(), angles.cos())]

    def gradient(self, dtype: torch.dtype, device: str = "cpu") -> Tensor:
        """A random gradient of the result."""
        random = torch.Generator().manual_seed(1)
        return torch.randn(self.batch, self.length, self.width, generator=random).to(dtype).to(device)

    def kernels(self, *operands: Tensor) -> Tensor:
        """The op by its kernels."""
        return gated_mixed_attention(*operands, self.chunk, self.lin_norm, self.scale)  # type: ignore[arg-type, call-arg]

    def parts(self) -> nn.Module:
        """The op in float64, lowered for a processor."""
        return _parts(self.chunk, self.keys, self.width, self.lin_norm)

    @property
    def inside(self) -> int:
        """The width of u, v and z together."""
        return 2 * self.width + self.keys


@cache
def _parts(chunk: int, keys: int, width: int, lin_norm: str) -> nn.Module:
    b, core = Builder("core"), Core(1, 1, chunk, keys, width, lin_norm)
    s, half = f"f64[4, {keys}]", f"f64[T, {keys // 2}]"
    types = (f"f64[B, T, {core.inside}]", f"f64[{core.inside}]", s, s, f"f64[{chunk}, {chunk}]", half, half)
    operands = [b.input(f"x{place}", type_) for place, type_ in enumerate(types)]
    settings: dict[str, Any] = {"chunk": chunk, "cumsum": "matmul", "lin_norm": lin_norm, "scale": core.scale}
    return module(Lowering.of("torch:cpu").run(b.finish(b.gated_mixed_attention(*operands, **settings))), {})


def results(net: Callable[..., Tensor], operands: list[Tensor], d_out: Tensor) -> list[Tensor]:
    """The result of a core, and the gradients of its operands but sin and cos."""
    xs = [x.clone().requires_grad_(place < len(LEARNED)) for place, x in enumerate(operands)]
    out = net(*xs)
    return [out.detach(), *torch.autograd.grad(out, xs[: len(LEARNED)], d_out.to(out.dtype))]


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill tensors without content with NaN, so that what no kernel wrote is found."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def errors(core: Core, dtype: torch.dtype, device: str = "cpu") -> dict[str, float]:
    """How far the kernels are off, by result and gradient: the norm of the difference over that of the reference.

    A reference of zeros, as where no score is above 0, allows no difference.
    """
    operands, d_out = core.operands(dtype), core.gradient(dtype)
    wanted = results(core.parts(), [x.double() for x in operands], d_out.double())
    with poisoned():
        computed = results(core.kernels, [x.to(device) for x in operands], d_out.to(device))
    pairs = zip(("out", *LEARNED), computed, wanted, strict=True)
    least = torch.finfo(torch.float64).tiny
    return {name: float((one.cpu().double() - other).norm() / other.norm().clamp(least)) for name, one, other in pairs}


def repeats(core: Core, dtype: torch.dtype, device: str) -> bool:
    """Whether every result and gradient is the same bit for bit in some runs."""
    operands, d_out = core.operands(dtype, device), core.gradient(dtype, device)
    first, *others = (results(core.kernels, operands, d_out) for _ in range(RUNS))
    return all(torch.equal(*pair) for other in others for pair in zip(first, other, strict=True))


def loss_errors(rows: int, vocab: int, device: str) -> dict[str, float]:
    """How far a loss in bfloat16 and the gradient that it writes over the logits are off; a third has no label."""
    random = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(rows, vocab, generator=random)).bfloat16()
    labels = torch.randint(0, vocab, (rows,), generator=random)
    labels[::3] = NO_LABEL
    total = torch.tensor(float(rows))
    wide = logits.double().requires_grad_()
    wanted = cross_entropy(wide, labels, ignore_index=NO_LABEL, reduction="sum") / total
    wanted.backward()  # type: ignore[no-untyped-call]
    assert wide.grad is not None
    gradient = logits.to(device)
    row_losses = loss_over_logits(gradient, labels.to(device), total.to(device))
    off = (gradient.cpu().double() - wide.grad).norm() / wide.grad.norm()
    return {"loss": float((row_losses.cpu() - wanted).abs() / wanted.abs()), "gradient": float(off)}


def measure(setting: Setting, _: Document) -> Iterator[Document]:
    """The errors of the loss, of steps of AdamW, and of cores at whole and ragged lengths for each chunk.

    At the sizes of a model, so that Triton's cache has the kernels for the stages that follow.
    """
    loss = loss_errors(*((8, 11) if setting.is_rehearsal else (512, 32000)), setting.device)
    shapes = ((), (setting.width,), (setting.width, setting.keys))
    update = update_errors(shapes, AdamW(clip=0.1), setting.device)
    document: Document = {"loss": {"errors": loss}, "update": {"errors": update}, "cores": []}
    yield document
    for chunk in setting.chunks:
        for batch, length in ((2, 2 * chunk), (1, 2 * chunk - 14), (1, chunk + 3)):
            core = Core(batch, length, chunk, setting.keys, setting.width)
            off = errors(core, torch.bfloat16, setting.device)
            same = repeats(core, torch.bfloat16, setting.device)
            document["cores"].append({**asdict(core), "dtype": "bfloat16", "errors": off, "repeats": same})
            yield document


def summary(document: Document) -> Iterator[str]:
    """The errors of the loss and of AdamW, and the largest of each core."""
    for row in (document["loss"], document["update"]):
        yield ", ".join(f"{name} is {error:.1e} off" for name, error in _errors_of(row).items())
    for row in document["cores"]:
        off = _errors_of(row)
        name = max(off, key=lambda tensor: off[tensor])
        same = "the same on every run" if row["repeats"] else "NOT the same on every run"
        yield f"{row['batch']} x {row['length']}, chunk {row['chunk']}: {name} is {off[name]:.1e} off; {same}"


def faults(document: Document) -> Iterator[str]:
    """What is too far off, or not the same on every run."""
    for name, error in _errors_of(document["loss"]).items():
        if not error <= TOLERANCE[torch.bfloat16]:
            yield f"over logits: {name} is {error:.1e} off"
    for name, error in _errors_of(document["update"]).items():
        if not error <= TOLERANCE[torch.float32]:
            yield f"AdamW: {name} are {error:.1e} off"
    for row in document["cores"]:
        where = f"{row['batch']} x {row['length']}, chunk {row['chunk']}"
        for name, error in _errors_of(row).items():
            if not error <= TOLERANCE[getattr(torch, row["dtype"])]:
                yield f"{where}: {name} is {error:.1e} off"
        if not row["repeats"]:
            yield f"{where}: results differ from run to run"


def _errors_of(row: Document) -> dict[str, float]:
    """The errors of a core. JSON has null for NaN."""
    return {name: inf if error is None else error for name, error in row["errors"].items()}
