"""Sums and norms moved out of layers, and the pieces that are compiled between them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx

import flashir
from flashir import Builder, Graph
from flashir_torch.joints import add_pieces, open_layers
from flashir_torch.remat import layers
from tests.backends.torch.support import net, tokens, unit

SYSTEMS = ("flash", "transformer++")


def model(name: str = "flash", depth: int = 3, **settings: Any) -> Graph:
    small = flashir.model(name, **{"d_model": 16, "depth": depth, "vocab": 11, **settings})
    return flashir.plan(small, "torch:cpu", 2, 9).graph


def opened(graph: Graph) -> tuple[fx.GraphModule, list[fx.GraphModule]]:
    made = net(graph, unit(graph))
    open_layers(made)
    return made, add_pieces(made)


def run(made: fx.GraphModule, ids: list[Tensor]) -> list[Tensor]:
    """The logits, and the gradient of every parameter."""
    logits = made(*ids)
    logits.square().mean().backward()
    return [
        logits.detach(),
        *(parameter.grad for _, parameter in sorted(made.named_parameters()) if parameter.grad is not None),
    ]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("flash", {}),
        ("transformer++", {}),
        pytest.param("flash", {"norm": "scale_norm"}, marks=pytest.mark.slow),
        pytest.param("flash", {"segments": True}, marks=pytest.mark.slow),
        pytest.param("flash", {"causal": False}, marks=pytest.mark.slow),
        *(
            pytest.param(name, {}, marks=pytest.mark.slow)
            for name in ("flash-quad", "performer", "combiner", "transformer", "transformer+", "mc-transformer++")
        ),
    ],
    ids=str,
)  # fmt: skip
def test_logits_and_gradients_stay(name: str, settings: dict[str, Any]) -> None:
    graph = model(name, **settings)
    ids = [torch.tensor(x) for x in tokens(graph, 2, 9)]
    before = net(graph, unit(graph))
    after, _ = opened(graph)
    assert list(after.state_dict()) == list(before.state_dict())
    for got, wanted in zip(run(after, ids), run(before, ids), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SYSTEMS)
def test_layers_and_pieces_between_them_have_one_text_each(name: str) -> None:
    """So each is compiled once; the first piece has positions, the last has no layer after it."""
    made, pieces = opened(model(name, depth=4))
    assert len({layer.code for layer in layers(made)}) == 1
    assert [piece.code == pieces[1].code for piece in pieces] == [False, True, True, True, False]
    assert not any(True for piece in pieces for _ in piece.parameters())


def test_a_layer_keeps_neither_its_norm_nor_its_sum() -> None:
    made, pieces = opened(model())
    for layer in layers(made):
        assert "layer_norm" not in layer.code and "return dense" in layer.code
    assert all("layer_norm" in piece.code for piece in pieces)


def test_lookups_and_products_are_in_no_piece() -> None:
    made, pieces = opened(model())
    assert "embedding" in made.code and " @ " in made.code
    assert not any("embedding" in piece.code or " @ " in piece.code for piece in pieces)


def test_what_has_no_norm_or_sum_stays() -> None:
    """A layer of another kind is as it was."""
    b = Builder("chain")
    x = b.input("x", "f32[B, T, 4]")
    made = net(b.finish(b.repeat(x, times=2, body=lambda b, h: b.scale_norm(h, scope="layers.{i}"))))
    before = [layer.code for layer in layers(made)]
    open_layers(made)
    assert before and [layer.code for layer in layers(made)] == before
    assert add_pieces(made) == []
