"""The function of a graph: its parameters, its gradients, and how it grows with the number of layers."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flashir
import flashir_jax
from flashir import interpret
from flashir.errors import InputError, ParameterError
from flashir_jax.positions import sinusoid
from tests.backends.jax.support import SMALL, Array, applied, flash, relative_error, tokens, unit


@cache
def deep(depth: int) -> flashir_jax.Function:
    return applied(flash(depth=depth, cumsum="native"))


def equations(jaxpr: Any) -> int:
    """How many equations a program has, those of its loops included."""
    total = 0
    for equation in jaxpr.eqns:
        inner = [
            getattr(each, "jaxpr", each) for each in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr)
        ]
        total += 1 + sum(equations(each) for each in inner if hasattr(each, "eqns"))
    return total


def _is_jaxpr(x: Any) -> bool:
    return hasattr(x, "eqns") or hasattr(x, "jaxpr")


def program(depth: int, *, stack: bool, gradient: bool = False) -> int:
    apply = deep(depth)
    params = flashir.init(flash(depth=depth))
    call = jax.grad(lambda p, ids: apply(p, ids).mean()) if gradient else apply
    return equations(jax.make_jaxpr(call)(apply.stack(params) if stack else params, np.zeros((1, 9), np.int32)).jaxpr)


@pytest.mark.parametrize("gradient", [False, True])
def test_the_program_does_not_grow_with_the_layers(gradient: bool) -> None:
    few, many = (program(depth, stack=True, gradient=gradient) for depth in (12, 72))
    assert few == many > 50


def test_stacking_inside_takes_two_equations_a_parameter() -> None:
    stacked, few, many = program(12, stack=True), program(12, stack=False), program(72, stack=False)
    assert stacked < few == many


def test_the_compiled_program_does_not_grow_either() -> None:
    def lines(depth: int) -> int:
        apply = deep(depth)
        weights = apply.stack(flashir.init(flash(depth=depth)))
        return jax.jit(apply).lower(weights, np.zeros((1, 9), np.int32)).as_text().count("\n")

    assert lines(12) == lines(72)


@pytest.mark.slow
@pytest.mark.grid  # it takes times, which other work disturbs
def test_time_to_compile_by_depth() -> None:
    from flashir_jax.experiments.depth import Sizes, measure

    sizes = Sizes(batch=1, seq_len=8, d_model=16, vocab=11, chunk=4, cumsum="matmul", named=False)
    found = measure(sizes, [12, 72], rounds=3)
    for what in ("forward", "gradient"):
        assert found[what, 72].ratio(found[what, 12]) < 1.3


def test_stack_and_unstack_are_inverse() -> None:
    apply = deep(3)
    params = flashir.init(flash(depth=3))
    stacked = apply.stack(params)
    assert stacked["layers.{i}.proj_in.bias"].shape == (3, 72)
    assert isinstance(stacked["layers.{i}.proj_in.bias"], np.ndarray)
    again = apply.unstack(stacked)
    assert again.keys() == params.keys()
    assert all(np.array_equal(again[name], params[name]) for name in params)
    assert {
        name: array.shape for name, array in apply.stack({n: jnp.asarray(x) for n, x in params.items()}).items()
    } == {name: array.shape for name, array in stacked.items()}


def test_loops_in_loops_stack_on_two_axes() -> None:
    b = flashir.Builder("mixed")
    x = b.embed(b.input("ids", "i32[B, T]"), vocab=11, dim=16)

    def outer(b: Any, h: Any) -> Any:
        h = b.repeat(h, times=3, body=lambda b, h: b.flash(h, key_dim=8, chunk=4, cumsum="native"))
        return b.gau(h, key_dim=8, max_len=32)

    model = b.finish(b.unembed(b.repeat(x, times=2, body=outer)))
    apply, params = applied(model), unit(model)
    stacked = apply.stack(params)
    assert stacked["layers.{4*i + j}.proj_in.bias"].shape == (2, 3, 72)
    assert stacked["layers.{4*i + 3}.proj_in.bias"].shape == (2, 72)
    assert np.array_equal(stacked["layers.{4*i + j}.proj_in.bias"][1, 2], params["layers.6.proj_in.bias"])
    again = apply.unstack(stacked)
    assert all(np.array_equal(again[name], params[name]) for name in params)


@pytest.mark.slow
def test_full_names_and_stacks_give_the_same() -> None:
    model = flash(depth=2, cumsum="native")
    apply, params, ids = deep(2), unit(model), tokens(model, 2, 3)
    assert np.array_equal(jax.jit(apply)(params, *ids), jax.jit(apply)(apply.stack(params), *ids))


def test_parameters_that_do_not_fit_are_named() -> None:
    apply, params = deep(2), flashir.init(flash())
    del params["layers.1.proj_in.bias"]
    params["layers.1.proj_out.bais"] = params.pop("layers.1.proj_out.bias")
    with pytest.raises(ParameterError, match=r"1.proj_in.bias is missing.*\n.*did you mean 'layers.1.proj_out.bais'\?"):
        apply(params, np.zeros((1, 3), np.int32))
    wrong = {**flashir.init(flash()), "embed.weight": np.zeros((11, 15), np.float32)}
    with pytest.raises(ParameterError, match=r"embed.weight must have shape \(11, 16\), got \(11, 15\)"):
        apply(wrong, np.zeros((1, 3), np.int32))


@pytest.mark.slow
def test_parameters_that_nothing_needs_are_left_out() -> None:
    """They stay in the gradient, which has every name that it was given."""
    apply, params = deep(2), {**flashir.init(flash()), "spare": np.ones(3, np.float32)}
    assert "spare" not in apply.stack(params)
    gradient = jax.grad(lambda p: apply(p, np.zeros((1, 0), np.int32)).sum())(params)
    assert gradient["spare"].tolist() == [0, 0, 0]


def test_inputs_that_do_not_fit_are_refused() -> None:
    apply, params = applied(flash(segments=True)), flashir.init(flash(segments=True))
    with pytest.raises(InputError, match=r"takes \(ids: i32\[B, T\], segment_ids: i32\[B, T\]\), got 1"):
        apply(params, np.zeros((1, 3), np.int32))
    with pytest.raises(InputError, match="axis 1 of segment_ids"):
        apply(params, np.zeros((1, 3), np.int32), np.zeros((1, 4), np.int32))


def loss_of(logits: Any) -> Any:
    """Something that every logit enters, each with a weight of its own."""
    return (logits * np.cos(np.arange(logits.size)).reshape(logits.shape)).sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cumsum", "remat"),
    [("native", False), ("scan", True), *(pytest.param(x, False, marks=pytest.mark.slow) for x in ("scan", "matmul"))],
)
def test_gradients_are_those_of_the_interpreter(cumsum: str, remat: bool) -> None:
    """Along a random direction of each parameter, against central differences in float64."""
    model = flash(cumsum=cumsum)
    params, ids = unit(model), tokens(model, 1, 11)
    apply = flashir_jax.function(applied(model).graph, remat=remat)
    gradients = jax.jit(jax.grad(lambda p: loss_of(apply(p, *ids))))(params)
    assert gradients.keys() == params.keys()
    random, step = np.random.default_rng(0), 1e-5
    for name, array in params.items():
        direction = random.standard_normal(array.shape)

        def moved(by: float, name: str = name, direction: Array = direction) -> float:
            wide = {**params, name: params[name].astype(np.float64) + by * direction}
            return float(loss_of(interpret(model, wide, *ids)[0]))

        wanted = (moved(step) - moved(-step)) / (2 * step)
        got = float((np.asarray(gradients[name], np.float64) * direction).sum())
        size = float(np.linalg.norm(gradients[name]) * np.linalg.norm(direction))
        assert abs(got - wanted) < 1e-4 * size + 1e-3, name


@pytest.mark.slow
def test_gradients_by_stacked_parameters_are_the_stacked_gradients() -> None:
    model = flash()
    apply, params, ids = applied(model), unit(model), tokens(model, 1, 6)
    gradient = jax.jit(jax.grad(lambda p: loss_of(apply(p, *ids))))
    by_name, by_stack = gradient(params), gradient(apply.stack(params))
    for name, array in apply.stack(by_name).items():
        assert relative_error(by_stack[name], array) < 1e-5, name


@pytest.mark.parametrize("length", [0, 1, 8192])
def test_sinusoids_are_exact_at_any_position(length: int) -> None:
    from flashir.ir import DType
    from flashir.ops.functions.position import ref_sinusoid

    for got, wanted in zip(sinusoid(np.arange(length), 24), ref_sinusoid(length, 24, DType.F64), strict=True):
        assert got.dtype == jnp.float32
        assert np.max(np.abs(np.asarray(got, np.float64) - wanted), initial=0) < 5e-7


def test_a_long_sequence_at_unit_scale() -> None:
    """8192 tokens: with float32 angles the last positions would be off by 1e-3."""
    model = flash(128, "matmul", depth=1, d_model=8, vocab=5)
    params = unit(model)
    ids = np.random.default_rng(0).integers(0, 5, (1, 8192))
    logits = jax.jit(applied(model))(params, ids)
    assert relative_error(np.asarray(logits), interpret(model, params, ids)[0]) < 1e-4


@pytest.mark.slow
def test_where_64_bits_are_enabled_nothing_changes() -> None:
    """And a graph in float64 computes in it. In a process of its own, for the setting is global."""
    program = """
import jax, numpy as np, flashir, flashir_jax
jax.config.update("jax_enable_x64", True)
model = flashir.model("flash", d_model=16, depth=1, key_dim=8, vocab=11, chunk=4, cumsum="native", segments=True)
params, ids = flashir.init(model), np.arange(10).reshape(1, 10)
logits = flashir_jax.function(flashir_jax.lower(model))(params, ids, ids // 3)
wanted = flashir.interpret(model, params, ids, ids // 3)[0]
assert logits.dtype == np.float32 and np.abs(logits - wanted).max() < 1e-6
b = flashir.Builder("wide")
x = b.input("x", "f64[1, T, 8]")
graph = b.finish(b.rope(x, axis=1))
x = np.random.default_rng(0).standard_normal((1, 9, 8))
got = flashir_jax.function(flashir_jax.lower(graph))({}, x)
assert got.dtype == np.float64 and np.abs(got - flashir.interpret(graph, {}, x)[0]).max() < 1e-12
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=120)


def test_without_jax_a_model_is_planned_and_the_error_says_how_to_get_it() -> None:
    """And with it, planning does not import it."""
    program = """
import sys, flashir, flashir_jax
from flashir.backends.registry import backend_of
from flashir.errors import TargetError
assert backend_of("jax:tpu-v4x32").device == "tpu-v4x32"
flashir.plan(flashir.model("flash", size="tiny"), target="jax:tpu-v4")
assert "jax" not in sys.modules
sys.modules["jax"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "jax" else find(name, *rest)
backend = flashir_jax.JaxBackend()
for call in (backend.versions, backend.devices, lambda: flashir_jax.function, lambda: backend.compile(None, {}, "cpu")):
    try:
        call()
    except TargetError as error:
        assert "pip install 'flashir[jax]'" in str(error)
    else:
        raise AssertionError(call)
flashir.plan(flashir.model("flash", size="tiny", vocab=11), target="jax:tpu-v4", chunk=64)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_lower_plans_what_is_open() -> None:
    graph = flashir_jax.lower(flashir.model("flash", size="tiny"), seq_len=256)
    assert not {"flash", "embed"} & {node.op for node in graph.walk()}
    forced = flashir_jax.lower(flashir.model("flash", **SMALL), "jax:tpu-v4", chunk=32, cumsum="scan")
    assert "scan" in {node.op for node in forced.walk()}
