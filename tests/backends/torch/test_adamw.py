"""Steps of AdamW by kernels, run by Triton's interpreter: against PyTorch's own, in float64."""

from __future__ import annotations

import pytest
import torch

from flashir.backends.training import AdamW
from flashir_torch.experiments.card.updates import RATE, drawn, new_update, update_errors
from flashir_torch.kernels import adamw

SHAPES = ((), (3,), (2, 8), (5, 7))
CLIPPED = AdamW(clip=0.1)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parameter has several blocks, and one kernel is told two addresses."""
    monkeypatch.setattr(adamw, "BLOCK", 16)
    monkeypatch.setattr(adamw, "AT_ONCE", 2)


@pytest.mark.parametrize("optimiser", [CLIPPED, AdamW(beta1=0.5, weight_decay=0.2)], ids=["clipped", "as they are"])
def test_parameters_move_as_those_of_pytorch(optimiser: AdamW) -> None:
    found = update_errors(SHAPES, optimiser, "cpu")
    assert found["parameters"] < 1e-6 and found["norms"] < 1e-6


def test_gradients_may_lie_anywhere() -> None:
    """A view of another tensor begins at any number, and may have gaps."""
    aligned = drawn(SHAPES, 1)
    odd = [torch.cat([torch.zeros(1), x.flatten()])[1:].view(x.shape) for x in aligned]
    odd[-1] = aligned[-1].t().contiguous().t()
    moved, others = drawn(SHAPES, 0), drawn(SHAPES, 0)
    for parameters, gradients in ((moved, odd), (others, aligned)):
        new_update(parameters, AdamW())(gradients, torch.tensor(RATE))
    assert all(torch.equal(x, y) for x, y in zip(moved, others, strict=True))


@pytest.mark.usefixtures("shuffled_programs")
def test_steps_are_equal_in_every_order_of_programs() -> None:
    """Bit for bit, with their norms."""
    runs = []
    for _ in range(3):
        moved = drawn(SHAPES, 0)
        norm = new_update(moved, CLIPPED)(drawn(SHAPES, 1), torch.tensor(RATE))
        runs.append([*moved, norm])
    assert all(torch.equal(x, y) for run in runs[1:] for x, y in zip(runs[0], run, strict=True))


def test_a_gradient_of_zeros_moves_by_decay_alone() -> None:
    moved = drawn(SHAPES, 0)
    assert new_update(moved, CLIPPED)([torch.zeros_like(x) for x in moved], torch.tensor(RATE)) == 0
    for got, before in zip(moved, drawn(SHAPES, 0), strict=True):
        torch.testing.assert_close(got, (1 - RATE * CLIPPED.weight_decay) * before)


def test_a_gradient_that_is_not_finite_is_told() -> None:
    """By the norm; its parameter is lost, as with PyTorch's own."""
    moved, gradients = drawn(SHAPES, 0), drawn(SHAPES, 1)
    gradients[1][0] = torch.nan
    assert new_update(moved, CLIPPED)(gradients, torch.tensor(RATE)).isnan()
    assert [bool(x.isnan().any()) for x in moved] == [False, True, False, False]
