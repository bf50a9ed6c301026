"""Modules that are trained: gradients, narrow types, what state_dict says, and the compilers of PyTorch."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx

import flashir
import flashir_torch
from flashir import Graph, interpret
from flashir.errors import ParameterError, TargetError
from flashir.ir import Builder
from flashir.ir.naming import parameters
from tests.backends.torch.support import SMALL, Array, flash, lowered, net, relative_error, tokens, unit

CUMSUM = ("scan", "matmul", "native")
STATES = 2000  # more than bfloat16 can count to


def tensors(arrays: list[Array]) -> tuple[Tensor, ...]:
    return tuple(map(torch.tensor, arrays))


def gau(**settings: Any) -> Graph:
    return flashir.model("flash-quad", **{**SMALL, **settings})


# Gradients

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


@pytest.mark.parametrize(
    ("op", "settings"),
    [
        *(("flash", {"chunk": 4, "cumsum": kind}) for kind in CUMSUM),
        ("flash", {"chunk": 4, "cumsum": "native", "causal": False, "norm": "scale_norm"}),
        ("gau", {"max_len": 16}),
        ("gau", {"max_len": 600, "causal": False}),
    ],
)
def test_gradcheck(op: str, settings: dict[str, Any]) -> None:
    """Layers in float64, by PyTorch's own check: the input and every parameter."""
    b = Builder("layers")
    x = b.input("x", "f64[B, T, 4]")
    model = b.finish(b.repeat(x, times=2, body=lambda b, h: getattr(b, op)(h, key_dim=4, expansion=1, **settings)))
    module = net(model)
    names = [name for name, _ in module.named_parameters()]

    def function(x: Tensor, *given: Tensor) -> Any:
        return torch.func.functional_call(module, dict(zip(names, given)), (x,))

    x0 = torch.randn(2, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    given = tuple(p.detach().clone().requires_grad_() for p in module.parameters())
    assert torch.autograd.gradcheck(function, (x0, *given), fast_mode=True)


@pytest.mark.parametrize(("batch", "length"), [(0, 9), (2, 0), (0, 0)])
@pytest.mark.parametrize("cumsum", CUMSUM)
def test_gradients_of_nothing_are_zero(cumsum: str, batch: int, length: int) -> None:
    model = flash(4, cumsum)
    module = net(model)
    module(*tensors(tokens(model, batch, length))).sum().backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), key


def test_a_model_learns() -> None:
    """A sequence by heart, in a few steps along the signs of the gradients: the optimisers take seconds to import."""
    model = flash(4, "matmul", causal=True)
    module = flashir_torch.lower(model)
    (ids,) = tensors(tokens(model, 1, 13))
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(module(ids)[0, :-1], ids[0, 1:])
        module.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in module.parameters():
                assert parameter.grad is not None
                parameter -= 1e-2 * parameter.grad.sign()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


# Narrow types


@pytest.mark.parametrize("cumsum", CUMSUM)
def test_autocast(cumsum: str) -> None:
    """Products in bfloat16, parameters and their gradients in float32."""
    model = flash(16, cumsum, causal=True)
    params, inputs = unit(model), tokens(model, 2, 50)
    module = net(model, params)
    with torch.autocast("cpu", torch.bfloat16):
        logits = module(*tensors(inputs))
    wanted = interpret(model, params, *inputs)[0]
    assert 1e-4 < relative_error(logits.float().detach().numpy(), wanted) < 2e-2
    logits.float().square().mean().backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32, key
        assert parameter.grad.isfinite().all(), key


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


# What a module says of itself


@pytest.mark.parametrize("name", MODELS)
def test_state_dict_is_the_contract(name: str) -> None:
    model = MODELS[name]()
    state = net(model).state_dict()
    assert {key: tuple(x.shape) for key, x in state.items()} == {k: p.shape for k, p in parameters(model).items()}


def test_state_goes_out_and_in() -> None:
    model = flash(4, "matmul")
    one, other = net(model), flashir_torch.lower(model)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    ids = tensors(tokens(model, 2, 9))
    assert torch.equal(one(*ids), other(*ids))


def test_parameters_are_copied() -> None:
    model = flash(4, "matmul")
    params = unit(model)
    module = net(model, params)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert all(np.array_equal(params[name], array) for name, array in unit(model).items())


def test_a_tied_table_is_one_parameter() -> None:
    model = flash(4, "matmul")
    module = net(model)
    assert [name for name, _ in module.named_parameters(remove_duplicate=False)].count("embed.weight") == 1
    assert "unembed.weight" not in module.state_dict()


@pytest.mark.parametrize("cumsum", CUMSUM)
def test_copies_are_independent(cumsum: str) -> None:
    model = flash(4, cumsum)
    module = net(model)
    twin = copy.deepcopy(module)
    ids = tensors(tokens(model, 2, 9))
    before = module(*ids)
    assert torch.equal(before, twin(*ids))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(before, module(*ids)) and not torch.equal(before, twin(*ids))


def test_layers_are_modules_with_code_to_read() -> None:
    module = net(flash(4, "matmul", depth=3))
    layers = [module.get_submodule(f"layers.{i}") for i in range(3)]
    assert all(isinstance(layer, fx.GraphModule) for layer in layers)
    one, other = (str(layer.code) for layer in layers[:2])
    assert one == other
    for name in ("layer_normalization_0 =", "offset_scale_0 =", "silu_0 =", "self.proj_in.weight"):
        assert name in one
    assert "def forward(self, ids)" in module.code


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


def test_missing_parameters_are_named() -> None:
    model = flash(4, "matmul")
    params = unit(model)
    del params["layers.1.norm.scale"]
    with pytest.raises(ParameterError, match=r"layers\.1\.norm\.scale is missing"):
        flashir_torch.module(lowered(model), params)


# Compilers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("cumsum", CUMSUM)
def test_torch_compile(cumsum: str) -> None:
    """Forward and backward are those of eager mode, for lengths that it was not compiled for too."""
    model = flash(4, cumsum, causal=True)
    module = net(model)
    fast = torch.compile(module, fullgraph=True, dynamic=None if cumsum == "scan" else True)
    for length in (11, 14):
        ids = tensors(tokens(model, 2, length))
        results = []
        for call in (module, fast):
            module.zero_grad(set_to_none=True)
            logits = call(*ids)
            logits.square().mean().backward()
            grads = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
            results.append((logits.detach().numpy(), torch.cat(grads).numpy()))
        (eager, eager_grads), (compiled, compiled_grads) = results
        assert relative_error(compiled, eager) < 1e-5
        assert relative_error(compiled_grads, eager_grads) < 1e-4
