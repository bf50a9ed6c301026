"""The kernels of a whole layer core, run by Triton's interpreter: against float64 autograd of the core's parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import flashir
from flashir.backends.lowering import Lowering
from flashir.ir import Graph
from flashir_torch import module
from flashir_torch.experiments.card.exactness import LEARNED, TOLERANCE, Core, errors, repeats, results
from flashir_torch.experiments.interpreter import nearest
from flashir_torch.kernels import blocks
from flashir_torch.kernels.claims import DEVICES
from flashir_torch.kernels.mixed import mixed_chunk_attention
from tests.backends.torch.support import relative_error, tokens, unit
from tests.cover import grid

CHUNK, KEYS, WIDTH = 32, 16, 24


def core(batch: int, length: int, lin_norm: str = "chunk_mean") -> Core:
    return Core(batch, length, CHUNK, KEYS, WIDTH, lin_norm)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk has several blocks each way, and so has e."""
    for table in (blocks.GATED, blocks.WIDE, blocks.NARROW):
        for name, each in table.items():
            sizes = {size: min(getattr(each, size), 16) for size in ("rows", "columns", "features")}
            monkeypatch.setitem(table, name, replace(each, **sizes, keys=16))


@pytest.mark.slow_where(dtype=torch.bfloat16)
@grid(
    together=1,
    length=(2 * CHUNK, 2 * CHUNK - 14, CHUNK + 3, 1),
    dtype=(torch.float32, torch.bfloat16),
    batch=(1, 2),
    lin_norm=("none", "chunk", "chunk_mean"),
)
def test_it_computes_what_its_parts_do(length: int, dtype: torch.dtype, batch: int, lin_norm: str) -> None:
    """On outputs that begin as NaN."""
    found = errors(core(batch, length, lin_norm), dtype)
    assert {name: error for name, error in found.items() if not error <= TOLERANCE[dtype]} == {}


@pytest.mark.parametrize("u", [0.0, -80.0], ids=["a gate of 0", "a gate below the faintest"])
def test_closed_gates_have_gradients(u: float) -> None:
    """What is gated is had back from the result, which would be 0 / 0."""
    made = core(1, CHUNK)
    operands = [x.double() for x in made.operands(torch.float32)]
    operands[0][..., :WIDTH], operands[1][:WIDTH] = u, 0.0
    d_out = made.gradient(torch.float32)
    wanted = results(made.parts(), operands, d_out.double())
    found = results(made.kernels, [x.float() for x in operands], d_out)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("shuffled_programs")
def test_gradients_are_equal_in_every_order_of_programs() -> None:
    """Bit for bit."""
    assert repeats(core(2, CHUNK + 3), torch.bfloat16, "cpu")


def test_no_tokens() -> None:
    made = core(2, 0)
    operands = made.operands(torch.float32)
    found = results(made.kernels, operands, torch.zeros(2, 0, WIDTH))
    assert [x.shape for x in found] == [(2, 0, WIDTH), *(x.shape for x in operands[: len(LEARNED)])]
    assert not any(bool(x.any()) for x in found)


@pytest.mark.slow
def test_the_operators_keep_the_rules() -> None:
    made = core(1, CHUNK + 1)
    xs = [x.requires_grad_(place < len(LEARNED)) for place, x in enumerate(made.operands(torch.float32))]
    settings = (CHUNK, made.lin_norm, made.scale)
    torch.library.opcheck(torch.ops.flashir.gated_mixed_attention.default, (*xs, *settings))


def planned(dtype: str = "bfloat16", chunk: int = 64, target: str = "torch:h100", **settings: Any) -> flashir.Plan:
    """The plan of a model of one flash layer, chosen for a card."""
    chosen = {"d_model": 16, "depth": 1, "vocab": 11, "key_dim": 32, "chunk": chunk, "cumsum": "scan", **settings}
    return flashir.plan(flashir.model("flash", **chosen), target, 1, 128, dtype=dtype)


def layer(dtype: str = "bfloat16", chunk: int = 64, **settings: Any) -> Graph:
    """A model of one flash layer, chosen for a card."""
    return planned(dtype, chunk, **settings).graph


def has_core(graph: Graph, device: str = "h100") -> bool:
    return any(node.op == "gated_mixed_attention" for node in Lowering.of(f"torch:{device}").run(graph).walk())


@pytest.mark.parametrize("device", sorted(DEVICES))
def test_cards_are_given_the_core(device: str) -> None:
    assert has_core(layer(), device)


@pytest.mark.parametrize("device", ["cpu", "v100"])
def test_processors_and_old_cards_keep_the_parts(device: str) -> None:
    assert not has_core(layer(), device)


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": "float32"}, {"dtype": "float16"}, {"chunk": 32}, {"chunk": 512}, {"chunk": 96}, {"key_dim": 48},
        {"causal": False}, {"cumsum": "matmul"}, {"segments": True}, {"use_global": False}, {"rope_dims": 0},
    ],
    ids=str,
)  # fmt: skip
def test_what_the_kernels_do_not_do_descends(settings: dict[str, Any]) -> None:
    assert not has_core(layer(**settings))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"chunk": 512}, ["The core of a layer is not", "its chunk is 512, wanted a power of two from 64 to 256"]),
        ({"dtype": "float32"}, ["The core of a layer is not", "its numbers are f32, wanted bf16"]),
        ({"chunk": 96}, ["Mixed chunk attention runs in parts", "its chunk is 96, wanted a power of two from 16 up"]),
        ({"cumsum": "matmul"}, ["Mixed chunk attention runs in parts", "its cumsum is matmul, wanted scan"]),
    ],
    ids=str,
)  # fmt: skip
def test_a_plan_says_which_kernels_a_model_misses(settings: dict[str, Any], said: list[str]) -> None:
    why = planned(**settings).why
    assert [text for text in said if text not in why] == []


def test_a_plan_is_silent_where_nothing_is_missed() -> None:
    for plan in (planned(), planned(target="torch:cpu", dtype="float32"), planned(target="torch:v100", chunk=96)):
        assert "without a kernel" not in plan.why and "not one kernel" not in plan.why


def test_the_core_means_what_its_layer_does() -> None:
    """In the float64 interpreter, which rounds nothing."""
    model = layer()
    params, ids = unit(model), tokens(model, 1, 70)
    got, wanted = (flashir.interpret(graph, params, *ids)[0] for graph in (Lowering.of("torch:h100").run(model), model))
    assert relative_error(got, wanted) < 1e-9


@pytest.mark.slow
def test_a_model_with_the_core_has_the_results_and_gradients_of_its_parts_in_float32() -> None:
    """But for the scale of positions, one number in which the gradients of all tokens cancel."""
    results = []
    for dtype, device in (("bfloat16", "h100"), ("float32", "cpu")):
        model = layer(dtype)
        net = module(Lowering.of(f"torch:{device}").run(model), unit(model))
        logits = net(torch.tensor(tokens(model, 2, 70)[0]))
        logits.float().square().mean().backward()
        gradients = (parameter.grad for _, parameter in sorted(net.named_parameters()) if parameter.ndim)
        results.append([logits.detach(), *gradients])
    for got, wanted in zip(*results, strict=True):
        assert relative_error(got.double().numpy(), wanted.double().numpy()) < 2e-2


def test_the_core_and_the_kernel_of_the_attention_agree() -> None:
    """The same states and scores, so the same rounding but for the gate and the heads."""
    made = core(1, 2 * CHUNK)
    pre, shift, gamma, beta, bias, sin, cos = operands = made.operands(torch.float32)
    u, v, z = torch.nn.functional.silu(pre + shift).split([WIDTH, WIDTH, KEYS], -1)
    first, second = (z[:, None] * gamma[:, None] + beta[:, None]).chunk(2, -1)
    heads = torch.cat([first * cos - second * sin, second * cos + first * sin], -1).unbind(1)
    attended = mixed_chunk_attention(heads[0] * made.scale, *heads[1:], v, bias, CHUNK, True, "chunk_mean")  # type: ignore[call-arg]
    torch.testing.assert_close(made.kernels(*operands), u * attended, rtol=1e-5, atol=1e-5)


def test_the_interpreter_rounds_as_gpus_do() -> None:
    """To the nearest bfloat16, ties to even; as PyTorch does."""
    wide = torch.cat([torch.randn(1000), torch.tensor([1.00390625, 1.01171875, -0.0, float("inf"), 3.4e38, 1e-40])])
    wanted = wide.bfloat16().view(torch.uint16).numpy()
    assert (nearest(wide.numpy()) == wanted).all()
    assert torch.tensor(nearest(np.array([np.nan], np.float32))).view(torch.bfloat16).isnan().all()
