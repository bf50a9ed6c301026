"""The kernel for mixed_chunk_attention, run by Triton's interpreter: against the reference, forward and back."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import triton
from torch import Tensor

import flashir
from flashir import interpret
from flashir.backends.lowering import Lowering
from flashir.errors import TargetError
from flashir.ir import Builder, DType, Graph
from flashir.ops import OPS
from flashir.ops.attention.recurrence_reference import ref_recurrence
from flashir_torch import TorchBackend, module
from flashir_torch.experiments.card.exactness import poisoned
from flashir_torch.export import without_loops
from flashir_torch.functions import relative_bias
from flashir_torch.kernels import blocks, bodies, claims
from flashir_torch.kernels.claims import DEVICES, KERNELS, has_kernel
from flashir_torch.kernels.mixed import mixed_chunk_attention
from flashir_torch.late_casts import LateCasts
from flashir_torch.session import Session
from flashir_torch.training import trained_graph
from tests.backends.torch.support import TOLERANCE, Array, compiling, flash, relative_error, tokens, unit
from tests.cover import grid, in_turn

NAMES = ("quad_q", "quad_k", "lin_q", "lin_k", "v", "bias")
CHUNK, KEYS, WIDTH = 32, 20, 24
LENGTH = 2 * CHUNK + 5  # a last chunk that is not whole


def drawn(length: int = LENGTH, batch: int = 1) -> list[Array]:
    random = np.random.default_rng(0)
    keys = [random.standard_normal((batch, length, KEYS)) / KEYS**0.5 for _ in range(4)]
    return [*keys, random.standard_normal((batch, length, WIDTH)), random.standard_normal((CHUNK, CHUNK))]


def tensors(arrays: list[Array], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.tensor(x, dtype=dtype) for x in arrays]


def kernel(operands: list[Tensor], causal: bool = True, lin_norm: str = "chunk_mean") -> Tensor:
    return mixed_chunk_attention(*operands, CHUNK, causal, lin_norm)  # type: ignore[call-arg]


def reference(operands: list[Array], causal: bool = True, lin_norm: str = "chunk_mean") -> Array:
    quad_q, quad_k, lin_q, lin_k, v, bias = operands
    how = {"chunk": CHUNK, "causal": causal, "lin_norm": lin_norm}
    made = ref_recurrence(v, quad_q, quad_k, bias, lin_q, lin_k, **how)
    return np.asarray(made)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a chunk has several blocks each way, and keys and features too."""
    blocks_of(16, 16, monkeypatch)


def blocks_of(rows: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for table in (blocks.WIDE, blocks.NARROW, blocks.HALF):
        for name, each in table.items():
            keys = each.keys if name == "key_gradients" else 16  # its result is all keys wide
            made = replace(each, rows=rows, columns=columns if each.columns else 0, keys=keys, features=16)
            monkeypatch.setitem(table, name, made)


def test_the_interpreter_is_on() -> None:
    assert not isinstance(bodies.attend, triton.JITFunction), "something imported Triton before conftest.py"


@pytest.mark.slow_where(dtype=torch.bfloat16)
@pytest.mark.slow_where(dtype=torch.float16)
@grid(
    together=1,
    causal=(True, False),
    lin_norm=("none", "chunk", "chunk_mean"),
    dtype=(torch.float32, torch.bfloat16, torch.float16),
    length=(LENGTH, CHUNK - 1),
    batch=(1, 2),
)
@pytest.mark.usefixtures("small_blocks")
def test_results_and_gradients_are_those_of_float64(
    causal: bool, lin_norm: str, dtype: torch.dtype, length: int, batch: int
) -> None:
    """By autograd through the parts of the op, on outputs that begin as NaN; norms of differences."""
    operands = tensors(drawn(length, batch), dtype)
    d_out = torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = of_parts([x.double() for x in operands], d_out.double(), causal, lin_norm)
    xs = [x.requires_grad_() for x in operands]
    with poisoned():
        out = kernel(xs, causal, lin_norm)
        found = [out.detach(), *torch.autograd.grad(out, xs, d_out)]
    off = {
        name: float((got.double() - wanted).norm() / wanted.norm())
        for name, got, wanted in zip(("out", *NAMES), found, exact, strict=True)
        if wanted.any()  # one chunk has no linear part
    }
    assert all(x.dtype == dtype for x in found)
    assert {name: error for name, error in off.items() if not error <= MOST_OFF[dtype]} == {}


MOST_OFF = {torch.float32: 1e-6, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}


def of_parts(operands: list[Tensor], d_out: Tensor, causal: bool, lin_norm: str) -> list[Tensor]:
    """The result, and the gradients in the order of `NAMES`."""
    xs = [x.requires_grad_() for x in operands]
    quad_q, quad_k, lin_q, lin_k, v, bias = xs
    out = parts(causal, lin_norm)(v, quad_q, quad_k, bias, lin_q, lin_k)
    return [out.detach(), *torch.autograd.grad(out, xs, d_out)]


@cache
def parts(causal: bool, lin_norm: str) -> torch.nn.Module:
    """The op in float64, lowered for a processor."""
    b, key = Builder("parts"), f"f64[B, T, {KEYS}]"
    types = (f"f64[B, T, {WIDTH}]", key, key, f"f64[{CHUNK}, {CHUNK}]", key, key)
    inputs = [b.input(f"x{place}", type_) for place, type_ in enumerate(types)]
    made = b.chunked_recurrence(*inputs, chunk=CHUNK, causal=causal, cumsum="matmul", lin_norm=lin_norm)
    return module(Lowering.of("torch:cpu").run(b.finish(made)), {})


def test_blocks_that_are_not_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block a chunk, the default at this size, gives the same numbers."""
    results = []
    for rows, columns in ((32, 16), (16, 32), (0, 0)):
        xs = [x.requires_grad_() for x in tensors(drawn(CHUNK + 5))]
        out = kernel(xs)
        results.append([out, *torch.autograd.grad(out.square().sum(), xs)])
        blocks_of(rows, columns, monkeypatch)
    for found in results[1:]:
        for got, wanted in zip(found, results[0], strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@in_turn(length=(0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 2), causal=(True, False))
def test_lengths(length: int, causal: bool) -> None:
    operands = drawn(length)
    xs = [x.requires_grad_() for x in tensors(operands)]
    got = kernel(xs, causal)
    got.sum().backward()
    assert got.shape == (1, length, WIDTH)
    assert all(x.grad is not None and x.grad.isfinite().all() and x.grad.shape == x.shape for x in xs)
    if length:
        assert relative_error(got.detach().numpy(), reference(operands, causal)) < 1e-5


def test_scores_of_float16_may_have_squares_beyond_its_range() -> None:
    """A score of 324 has a square of 104976."""
    made = []
    for dtype in (torch.float16, torch.float32):
        quad = torch.full((1, CHUNK, 16), 4.5, dtype=dtype)
        none, v = torch.zeros_like(quad), torch.full_like(quad, 1e-3)
        xs = [x.clone().requires_grad_() for x in (quad, quad, none, none, v, torch.zeros(CHUNK, CHUNK, dtype=dtype))]
        out = kernel(xs)
        out.backward(torch.full_like(out, 0.01))
        made.append([out, *(x.grad for x in (*xs[:2], xs[5]))])
    for got, wanted in zip(*made, strict=True):
        assert got is not None and wanted is not None
        torch.testing.assert_close(got.float(), wanted, rtol=2e-3, atol=1e-3)


def test_the_state_is_float32() -> None:
    """The first chunk adds 32768 to the state, eight others 32 each: bfloat16 would stay at the first."""
    chunks, large = 10, 1024.0
    ones = torch.ones((1, chunks * CHUNK, 1), dtype=torch.bfloat16)
    none, bias = torch.zeros_like(ones), torch.zeros((CHUNK, CHUNK), dtype=torch.bfloat16)
    values, d_out = ones.clone(), ones.clone()
    values[:, :CHUNK] = large
    d_out[:, -CHUNK:] = large
    values.requires_grad_()
    got = kernel([none, none, ones, ones, values, bias], True, "none")
    got.backward(d_out)
    wanted = pytest.approx(CHUNK * (large + chunks - 2), rel=3e-3)
    assert float(got.detach()[0, -1, 0]) == wanted
    assert values.grad is not None and float(values.grad[0, 0, 0]) == wanted


def test_views_are_read_in_place_and_what_has_gaps_is_copied() -> None:
    operands = drawn(batch=2)
    heads = torch.tensor(np.stack(operands[:4], 1), dtype=torch.float32)
    _, _, _, _, v, bias = tensors(operands)
    part = torch.cat((torch.ones_like(v), v, torch.ones_like(v)), -1)[..., WIDTH : 2 * WIDTH]
    turned = v.mT.contiguous().mT
    for values in (part, turned):
        got = kernel([*heads.unbind(1), values, bias.mT.contiguous().mT])
        assert relative_error(got.numpy(), reference(operands)) < 1e-5


def test_operands_of_several_types_are_taken_in_that_of_v() -> None:
    """As autocast leaves them."""
    operands = tensors(drawn(CHUNK + 1))
    xs = [x.requires_grad_() for x in (*operands[:4], operands[4].bfloat16(), operands[5])]
    got = kernel(xs)
    assert got.dtype == torch.bfloat16
    got.sum().backward()
    assert [x.grad.dtype for x in xs if x.grad is not None] == [x.dtype for x in xs]


OPERATORS = torch.ops.flashir


@pytest.mark.slow
def test_the_operators_keep_the_rules() -> None:
    xs = [x.requires_grad_() for x in tensors(drawn(CHUNK + 1))]
    settings = (CHUNK, True, "chunk_mean")
    torch.library.opcheck(OPERATORS.mixed_chunk_attention.default, (*xs, *settings))
    d_out, states = torch.ones_like(xs[4]), torch.zeros(2, KEYS, WIDTH)
    given = (d_out, states, *(x.detach() for x in xs), *settings)
    torch.library.opcheck(OPERATORS.mixed_chunk_attention_backward.default, given)


def test_it_compiles_as_one_graph() -> None:
    xs = [x.requires_grad_() for x in tensors(drawn(CHUNK + 1))]

    def loss(*xs: Tensor) -> Tensor:
        return kernel(list(xs)).square().sum()

    whole: Any = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=True)
    for got, wanted in zip(torch.autograd.grad(whole(*xs), xs), torch.autograd.grad(loss(*xs), xs), strict=True):
        torch.testing.assert_close(got, wanted)


def mixed(dtype: str = "f32", chunk: int = 64, keys: int = 64, **settings: Any) -> Graph:
    b = Builder("mixed")
    heads = [b.input(f"k{i}", f"{dtype}[B, T, {keys}]") for i in range(4)]
    v, bias = b.input("v", f"{dtype}[B, T, 96]"), b.input("bias", f"{dtype}[{chunk}, {chunk}]")
    ids = [b.input("ids", "i32[B, T]")] if settings.pop("segments", False) else []
    chosen = {"causal": True, "cumsum": "scan", "lin_norm": "chunk_mean", **settings}
    return b.finish(b.chunked_recurrence(v, *heads[:2], bias, *heads[2:], None, *ids, chunk=chunk, **chosen))


def ops(graph: Graph) -> set[str]:
    return {node.op for node in graph.walk()}


@pytest.mark.parametrize("device", ["a100", "h100", "h200"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_cards_are_given_the_kernel(device: str, dtype: str) -> None:
    graph = Lowering.of(f"torch:{device}").run(mixed(dtype))
    assert {node.op for node in graph.nodes} == {"chunked_recurrence"}


def test_without_causality_there_is_nothing_to_choose() -> None:
    assert ops(Lowering.of("torch:h100").run(mixed(causal=False, cumsum="native"))) == {"chunked_recurrence"}


@pytest.mark.parametrize(
    "graph",
    [
        mixed("f64"), mixed(chunk=8), mixed(chunk=96), mixed(keys=129), mixed(cumsum="matmul"),
        mixed(cumsum="matmul", segments=True),
    ],
    ids=["float64", "short", "chunk", "keys", "matmul", "segments"],
)  # fmt: skip
def test_what_the_kernel_does_not_do_descends(graph: Graph) -> None:
    assert not any(has_kernel(node, device) for node in graph.nodes for device in DEVICES)
    assert not KERNELS.keys() & ops(Lowering.of("torch:h100").run(graph))


@pytest.mark.parametrize("device", ["cpu", "v100"])
def test_other_devices_are_given_its_parts(device: str) -> None:
    assert not KERNELS.keys() & ops(Lowering.of(f"torch:{device}").run(mixed()))


@cache
def model(causal: bool = True) -> Graph:
    return flash(16, causal=causal)


@pytest.mark.parametrize("causal", [True, False])
def test_a_model_lowered_for_a_card(causal: bool) -> None:
    graph = Lowering.of("torch:h100").run(model(causal))
    assert KERNELS.keys() & ops(graph)
    params, ids = unit(model(causal)), tokens(model(causal), 2, 37)
    session = Session(module(graph, params).requires_grad_(False), graph, torch.device("cpu"))
    assert relative_error(session(ids), interpret(model(causal), params, *ids)[0]) < TOLERANCE


def test_its_gradients_are_those_of_its_parts() -> None:
    small = flash(16, depth=1)
    ids = torch.tensor(tokens(small, 1, 21)[0])
    made = []
    for device in ("h100", "cpu"):
        net = module(Lowering.of(f"torch:{device}").run(small), unit(small))
        net(ids).square().mean().backward()
        made.append({name: parameter.grad for name, parameter in net.named_parameters()})
    torch.testing.assert_close(*made, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("one_sign", [True, False])
def test_the_gradient_of_a_bias_is_summed_in_float32(one_sign: bool) -> None:
    """In a narrow layer, where each weight is read up to 256 times: at most 0.3% off."""
    b = Builder("bias")
    w = b.cast(b.param(name="w", shape=(511,)), dtype=DType.BF16)
    graph = Lowering.of("torch:h100").run(b.finish(b.mul(b.rel_pos_bias(w, n=256), b.input("x", "bf16[256, 256]"))))
    random = np.random.default_rng(0)
    weights = random.uniform(0.0 if one_sign else -1.0, 1.0, (256, 256)) * np.tri(256)
    net = module(LateCasts().apply(graph), {"w": np.zeros(511, np.float32)})
    net(torch.tensor(weights, dtype=torch.bfloat16)).sum().backward()
    wanted = np.array([np.trace(weights, at) for at in range(-255, 256)])
    got = net.get_parameter("w").grad
    assert got is not None
    assert np.linalg.norm(got.double().numpy() - wanted) < 3e-3 * np.linalg.norm(wanted)


@pytest.mark.parametrize(("span", "n"), [(5, 5), (5, 3), (1, 1)])
def test_a_bias_without_a_lookup(span: int, n: int) -> None:
    w = torch.randn(2 * span - 1, dtype=torch.float64, requires_grad=True)
    assert np.array_equal(relative_bias(w, n).detach().numpy(), OPS["rel_pos_bias"].ref(w.detach().numpy(), n))
    assert torch.autograd.gradcheck(lambda x: relative_bias(x, n), w)


@pytest.mark.slow
@pytest.mark.usefixtures("small_blocks", "shuffled_programs")
def test_gradients_are_equal_in_every_order_of_programs() -> None:
    """Bit for bit: programs do not add to what others write."""
    small = flash(16, depth=1)
    ids = torch.tensor(tokens(small, 2, 21)[0])
    net = module(trained_graph(Lowering.of("torch:h100").run(small)), unit(small))
    made = []
    for _ in range(5):
        net.zero_grad()
        net(ids).square().mean().backward()
        made.append({name: parameter.grad for name, parameter in net.named_parameters()})
    for other in made[1:]:
        assert all(torch.equal(other[name], gradient) for name, gradient in made[0].items())


@pytest.mark.slow
def test_its_module_compiles_whole_and_exports_with_open_sizes() -> None:
    net = module(Lowering.of("torch:h100").run(model()), unit(model()))
    ids = torch.tensor(tokens(model(), 2, 37)[0])
    whole: Any = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(whole(ids), net(ids))
    sizes = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    program = torch.export.export(net, (ids,), dynamic_shapes=(sizes,), strict=False)
    torch.testing.assert_close(program.module()(ids[:1, :21]), net(ids[:1, :21]))


@pytest.mark.parametrize("causal", [True, False])
def test_an_export_has_no_kernel(causal: bool) -> None:
    graph = without_loops(model(causal), Lowering.of("torch:h100").run(model(causal)), TorchBackend("h100"))
    assert not {*KERNELS, "scan"} & ops(graph)


@pytest.mark.slow
def test_an_artefact_runs_anywhere(tmp_path: Path) -> None:
    made = flashir.export(model(), tmp_path, target="torch:h100")
    ids = tokens(model(), 2, 37)
    wanted = interpret(model(), flashir.init(model()), *ids)[0]
    assert relative_error(TorchBackend("h100").load(made.path, "cpu")[1](ids), wanted) < TOLERANCE


def test_without_triton_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "find_spec", lambda name: None)
    graph = Lowering.of("torch:h100").run(model())
    with pytest.raises(TargetError, match=r"Triton is not installed(.|\n)*pip install triton"):
        module(graph, unit(model()))


@pytest.mark.slow
def test_tensors_that_are_not_on_a_card_are_named(tmp_path: Path) -> None:
    code = """
import torch
from flashir.errors import TargetError
from flashir_torch.kernels.mixed import mixed_chunk_attention
x = torch.ones(1, 5, 16)
try:
    mixed_chunk_attention(x, x, x, x, x, torch.ones(16, 16), 16, True, "none")
except TargetError as error:
    print(error)
"""
    told = compiling(tmp_path, "-c", code)
    assert "the kernel runs only on CUDA, got tensors on cpu" in told
    assert "lower the model for torch:v100 or torch:cpu" in told
