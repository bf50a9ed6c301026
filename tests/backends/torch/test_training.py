"""Narrow types, learning, and compilation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, fx

from tests.backends.torch.support import flash, net, tokens


def gradients(made: fx.GraphModule, ids: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    made.zero_grad()
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        logits = made(ids)
    logits.float().logsumexp(-1).mean().backward()
    return logits.detach(), {name: each.grad.clone() for name, each in made.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("cumsum", ["scan", "matmul", "native"])
def test_autocast(cumsum: str) -> None:
    model = flash(16, cumsum)
    made, ids = net(model), torch.tensor(tokens(model, 2, 50)[0])
    wanted, exact = gradients(made, ids)
    got, rough = gradients(made, ids, torch.bfloat16)
    assert (got - wanted).abs().max() < 4e-2 * wanted.abs().max()
    for name, gradient in exact.items():
        assert rough[name].dtype == torch.float32
        assert (rough[name] - gradient).norm() < 0.2 * gradient.norm(), name


def test_bfloat16_parameters_have_gradients() -> None:
    model = flash(4, "native", dtype="bfloat16")
    made = net(model)
    logits, found = gradients(made, torch.tensor(tokens(model, 1, 9)[0]))
    assert logits.dtype == torch.float32
    assert {each.dtype for each in found.values()} == {torch.bfloat16}
    assert all(bool(each.isfinite().all()) for each in found.values())


def test_a_few_steps_learn_something() -> None:
    model = flash(cumsum="matmul")
    made, ids = net(model), torch.tensor(np.tile(np.arange(11), 2)[None])
    optimiser = torch.optim.AdamW(made.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(made(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.grid
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("cumsum", ["scan", "matmul"])
def test_compiled(cumsum: str) -> None:
    """One graph, the same logits and gradients; with lengths left open, one program for all of several chunks."""
    torch._dynamo.reset()
    model = flash(cumsum=cumsum, depth=1)
    made, ids = net(model), torch.tensor(tokens(model, 2, 11)[0])
    wanted, exact = gradients(made, ids)
    compiled = torch.compile(made, fullgraph=True, dynamic=cumsum == "matmul")
    made.zero_grad()
    logits = compiled(ids)
    logits.logsumexp(-1).mean().backward()
    torch.testing.assert_close(logits.detach(), wanted, rtol=1e-4, atol=1e-4)
    for name, each in made.named_parameters():
        torch.testing.assert_close(each.grad, exact[name], rtol=1e-4, atol=1e-5)
    if cumsum == "matmul":
        with torch._dynamo.config.patch(error_on_recompile=True):
            other = torch.tensor(tokens(model, 2, 14)[0])
            torch.testing.assert_close(compiled(other), made(other), rtol=1e-4, atol=1e-4)
