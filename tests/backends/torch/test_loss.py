"""The cross-entropy that writes its gradient over the logits, run by Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import flashir
from flashir.backends.lowering import Lowering
from flashir.backends.training import NO_LABEL, AdamW, Batch
from flashir.ir import Graph
from flashir_torch import training
from flashir_torch.kernels import loss
from flashir_torch.training import TorchTrainer, trained_graph, writes_over_logits
from tests.backends.torch.support import Again


def wanted(logits: Tensor, labels: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    wide = logits.double().requires_grad_()
    part = cross_entropy(wide.flatten(0, -2), labels.flatten(), ignore_index=NO_LABEL, reduction="sum") / total
    part.backward()
    assert wide.grad is not None
    return part.detach(), wide.grad


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
@pytest.mark.parametrize("width", [1, 11, 70], ids=["one class", "one block", "several blocks"])
def test_the_loss_and_its_gradient(
    width: int, dtype: torch.dtype, close: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some rows have no label, some numbers are large."""
    monkeypatch.setattr(loss, "COLUMNS", 32)
    random = torch.Generator().manual_seed(0)
    logits = (torch.randn(2, 3, width, generator=random) * torch.tensor([1.0, 30.0, 3e4])[:, None]).to(dtype)
    labels = torch.randint(0, width, (2, 3), generator=random)
    labels[1, :2] = NO_LABEL
    total = torch.tensor(9.0)
    part, gradient = wanted(logits, labels, total)
    found = loss.loss_over_logits(logits, labels, total)
    torch.testing.assert_close(found.double(), part, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits.double(), gradient, rtol=close, atol=1e-7)


def test_a_logit_of_minus_infinity_has_no_part() -> None:
    logits = torch.tensor([[0.0, float("-inf"), 1.0], [float("-inf"), float("-inf"), 2.0]])
    labels, total = torch.tensor([2, 2]), torch.tensor(2.0)
    part, gradient = wanted(logits, labels, total)
    assert torch.allclose(loss.loss_over_logits(logits, labels, total).double(), part)
    assert torch.allclose(logits.double(), gradient)


def test_no_rows() -> None:
    assert float(loss.loss_over_logits(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), torch.tensor(1.0))) == 0


def lowered(**settings: object) -> Graph:
    model = flashir.model("flash", d_model=16, depth=1, vocab=11, chunk=4, cumsum="matmul", **settings)
    return Lowering.of("torch:cpu").run(model)


def test_only_a_product_on_a_gpu_is_written_over() -> None:
    graph, card = trained_graph(lowered()), torch.device("cuda")
    assert writes_over_logits(graph, card)
    assert not writes_over_logits(graph, torch.device("cpu"))
    b = flashir.Builder("scores")
    x = b.input("x", "f32[B, T, 4]")
    assert not writes_over_logits(b.finish(b.tanh(x)), card)


def test_a_trainer_takes_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps() -> list[float]:
        trainer = TorchTrainer(lowered(), flashir.init(lowered()), "cpu", AdamW(clip=0.1))
        ids = np.random.default_rng(0).integers(0, 11, (2, 5))
        batches = [Batch((ids,), np.where(ids == 3, NO_LABEL, np.roll(ids, shift, 1))) for shift in (1, 2)]
        made = [trainer.step(batches, 1e-2) for _ in range(3)]
        return [number for step in made for number in (step.loss, step.gradient_norm)]

    plain = steps()
    for name, value in {"CardRecorder": Again, "fuses": lambda device: True, "fuse": lambda made, **_: None}.items():
        monkeypatch.setattr(training, name, value)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(training, "writes_over_logits", lambda graph, device: True)
    assert np.allclose(steps(), plain, rtol=1e-5)
