"""Gradients against the interpreter, sums in narrow types, and what else a module that is trained goes through."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import flashir
import flashir_torch
from flashir import Graph, interpret
from flashir.errors import ParameterError, TargetError
from flashir.ir import Builder
from tests.backends.torch.support import SMALL, Array, flash, net, relative_error, tokens, unit

CUMSUM = ("scan", "matmul", "native")
STATES = 2000  # more than bfloat16 can count to


def tensors(arrays: list[Array]) -> tuple[Tensor, ...]:
    return tuple(map(torch.tensor, arrays))


def gau(**settings: Any) -> Graph:
    return flashir.model("flash-quad", **{**SMALL, **settings})


MODELS: dict[str, Callable[[], Graph]] = {
    **{f"flash-{kind}": lambda kind=kind: flash(4, kind, causal=True) for kind in CUMSUM},  # type: ignore[misc]
    "segments": lambda: flash(4, "matmul", segments=True, norm="scale_norm"),
    "both-ways": lambda: flash(4, "native", causal=False, lin_norm="none"),
    "long-bias": lambda: flash(512, "scan", depth=1),
    "gau": lambda: gau(max_len=16),
    "gau-long": lambda: gau(max_len=600, causal=False),
}


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_the_interpreter(name: str) -> None:
    """Along a random direction of every parameter, against central differences in float64."""
    model = MODELS[name]()
    params, inputs = unit(model), tokens(model, 2, 9)
    module = net(model, params)
    random = np.random.default_rng(0)
    weights = random.standard_normal((2, 9, SMALL["vocab"]))
    (module(*tensors(inputs)) * torch.tensor(weights, dtype=torch.float32)).sum().backward()
    for key, parameter in module.named_parameters():
        direction = random.standard_normal(parameter.shape)

        def loss(step: float, key: str = key, direction: Array = direction) -> float:
            moved = {**params, key: params[key].astype(np.float64) + step * direction}
            return float(np.sum(weights * interpret(model, moved, *inputs)[0]))

        assert parameter.grad is not None, key
        got, wanted = float(np.sum(parameter.grad.numpy() * direction)), (loss(1e-5) - loss(-1e-5)) / 2e-5
        size = float(np.linalg.norm(parameter.grad.numpy()) * np.linalg.norm(direction))
        assert abs(got - wanted) < 1e-3 * max(size, 1e-2), key


@pytest.mark.parametrize(("batch", "length", "cumsum"), [(0, 9, "scan"), (2, 0, "matmul"), (0, 0, "native")])
def test_gradients_of_nothing_are_zero(batch: int, length: int, cumsum: str) -> None:
    model = flash(4, cumsum)
    module = net(model)
    module(*tensors(tokens(model, batch, length))).sum().backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), key


@pytest.mark.parametrize("cumsum", ["scan", "native"])
def test_states_are_summed_in_float32_under_autocast(cumsum: str) -> None:
    """Chunks of one token each: a sum kept in bfloat16 would stop growing at 256."""
    b = Builder("states")
    x = b.input("x", f"f32[1, {STATES}, 1, 2]")
    model = b.finish(b.linear_attention(x, x, x, causal=True, cumsum=cumsum, lin_norm="none"))
    ones = np.ones((1, STATES, 1, 2), np.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = net(model)(torch.tensor(ones))
    assert relative_error(got.float().numpy(), interpret(model, {}, ones)[0]) < 2e-2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_in_half_precision(dtype: str) -> None:
    """A model whose compute type is narrow keeps narrow parameters; their gradients point the same way."""
    wide, narrow = flash(16, "matmul"), flash(16, "matmul", dtype=dtype)
    grads: list[Tensor] = []
    for model in (wide, narrow):
        module = net(model, unit(wide))
        module(*tensors(tokens(model, 2, 20))).float().square().mean().backward()
        grads.append(torch.cat([p.grad.flatten().float() for p in module.parameters() if p.grad is not None]))
    assert torch.cosine_similarity(grads[0], grads[1], dim=0) > 0.99


def test_copies_are_independent() -> None:
    model = flash(4, "scan")
    module = net(model)
    twin = copy.deepcopy(module)
    ids = tensors(tokens(model, 2, 9))
    before = module(*ids)
    assert torch.equal(before, twin(*ids))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(before, module(*ids)) and not torch.equal(before, twin(*ids))


def test_double_precision_and_back() -> None:
    """`module.double()` is not asked for by a model, but users do it."""
    model = flash(4, "native", dtype="float32")
    module = net(model)
    ids = tensors(tokens(model, 2, 9))
    logits = module(*ids)
    assert torch.equal(module.double().float()(*ids), logits)


def test_lower_plans_what_is_open_and_forwards_choices() -> None:
    model = flashir.model("flash", **SMALL)
    module = flashir_torch.lower(model, chunk=4, cumsum="scan", seq_len=64)
    assert tuple(module.state_dict()["layers.0.rel_bias.w"].shape) == (7,)
    params = {**unit(flash(4)), "embed.weight": np.zeros((3, 16), np.float32)}
    with pytest.raises(ParameterError, match=r"embed\.weight"):
        flashir_torch.lower(flash(4), params=params)
    with pytest.raises(TargetError):
        flashir_torch.lower(model, "torch:nowhere")
