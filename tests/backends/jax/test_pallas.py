"""The TPU kernel for mixed_chunk_attention, run by Pallas' interpreter: against the reference, forward and back."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flashir
import flashir_jax
from flashir import interpret
from flashir.backends.lowering import Lowering
from flashir.ir import Builder, DType, Graph
from flashir.ops.attention.recurrence_reference import ref_recurrence
from flashir_jax import JaxBackend, function
from flashir_jax.artefact import read_manifest
from flashir_jax.export import exported, imported
from flashir_jax.pallas import vmem
from flashir_jax.pallas.claims import KERNELS, has_kernel
from flashir_jax.pallas.mixed import mixed_chunk_attention
from flashir_jax.pallas.table import TABLE
from tests.backends.jax.support import Array, flash, relative_error, tokens, unit
from tests.cover import grid

TPU = JaxBackend().on("tpu-v4")
LIN_NORM = ("none", "chunk", "chunk_mean")
NAMES = ("quad_q", "quad_k", "lin_q", "lin_k", "v", "bias")
LENGTH, CHUNK, KEYS, WIDTH = 11, 4, 6, 256  # a last chunk that is not whole, more than one tile


def drawn(length: int = LENGTH, seed: int = 0) -> list[Array]:
    random = np.random.default_rng(seed)
    keys = [random.standard_normal((2, length, KEYS)) / KEYS**0.5 for _ in range(4)]
    return [*keys, random.standard_normal((2, length, WIDTH)), random.standard_normal((CHUNK, CHUNK))]


@cache
def kernel(causal: bool, lin_norm: str) -> Any:
    return jax.jit(partial(mixed_chunk_attention, chunk=CHUNK, causal=causal, lin_norm=lin_norm, interpret=True))


def reference(operands: list[Array], causal: bool, lin_norm: str) -> Array:
    quad_q, quad_k, lin_q, lin_k, v, bias = operands
    how = {"chunk": CHUNK, "causal": causal, "lin_norm": lin_norm}
    made = ref_recurrence(v, quad_q, quad_k, bias, lin_q, lin_k, **how)
    return np.asarray(made)


every_kind = grid(together=1, causal=(True, False), lin_norm=("none", "chunk", "chunk_mean"))


@pytest.fixture
def narrow_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for 128 columns alone, so that e = 256 takes two tiles."""
    monkeypatch.setattr(vmem, "VMEM", vmem.needed(CHUNK, KEYS, 128, itemsize=4))


@every_kind
@pytest.mark.usefixtures("narrow_tiles")
def test_results_and_gradients(causal: bool, lin_norm: str) -> None:
    """Along a random direction of each operand, against central differences of the reference in float64."""
    operands = drawn()
    weights = np.random.default_rng(1).standard_normal((2, LENGTH, WIDTH))
    run = kernel(causal, lin_norm)

    @jax.jit
    def both(*xs: Any) -> Any:
        out, pulled = jax.vjp(run, *xs)
        return out, pulled(jnp.asarray(weights, jnp.float32))

    out, made = both(*(jnp.asarray(x, jnp.float32) for x in operands))
    assert out.shape == (2, LENGTH, WIDTH)
    assert relative_error(np.asarray(out), reference(operands, causal, lin_norm)) < 1e-5
    random, step = np.random.default_rng(2), 1e-6
    for i, name in enumerate(NAMES):
        direction = random.standard_normal(operands[i].shape)

        def moved(by: float, i: int = i, direction: Array = direction) -> float:
            changed = [x + by * direction if j == i else x for j, x in enumerate(operands)]
            return float((reference(changed, causal, lin_norm) * weights).sum())

        wanted = (moved(step) - moved(-step)) / (2 * step)
        got = float((np.asarray(made[i], np.float64) * direction).sum())
        size = float(np.linalg.norm(made[i]) * np.linalg.norm(direction))
        assert abs(got - wanted) < 1e-4 * size, name


@pytest.mark.parametrize("length", [0, 1, 2 * CHUNK])
def test_lengths(length: int) -> None:
    operands = drawn(length)
    got = kernel(True, "chunk_mean")(*(jnp.asarray(x, jnp.float32) for x in operands))
    assert got.shape == (2, length, WIDTH)
    if length:
        assert relative_error(np.asarray(got), reference(operands, True, "chunk_mean")) < 1e-5


def test_bfloat16_keeps_its_state_in_float32() -> None:
    operands = [jnp.asarray(x, jnp.bfloat16) for x in drawn(64)]
    got = kernel(True, "none")(*operands)
    assert got.dtype == jnp.bfloat16
    wanted = reference([np.asarray(x, np.float64) for x in operands], True, "none")
    assert relative_error(np.asarray(got, np.float64), wanted) < 2e-2


@pytest.mark.slow
def test_a_state_in_bfloat16_would_stop_growing() -> None:
    """400 chunks, each of which adds 4 to every number of the state: bfloat16 would stay at 1024."""
    ones = jnp.ones((1, 400 * CHUNK, 1), jnp.bfloat16)
    none = jnp.zeros_like(ones)
    wide = jnp.ones((1, 400 * CHUNK, 128), jnp.bfloat16)
    got = kernel(True, "none")(none, none, ones, ones, wide, jnp.zeros((CHUNK, CHUNK), jnp.bfloat16))
    assert float(got[0, -1, 0]) == pytest.approx(399 * CHUNK, rel=5e-3)


def mixed(
    dtype: str = "f32",
    chunk: int = 128,
    width: int = 256,
    segments: bool = False,
    causal: bool = True,
    cumsum: str = "scan",
) -> Graph:
    b = Builder("mixed")
    keys = [b.input(f"k{i}", f"{dtype}[B, T, 64]") for i in range(4)]
    v, bias = b.input("v", f"{dtype}[B, T, {width}]"), b.input("bias", f"{dtype}[{chunk}, {chunk}]")
    ids = [b.input("ids", "i32[B, T]")] if segments else []
    return b.finish(
        b.chunked_recurrence(v, *keys[:2], bias, *keys[2:], None, *ids, chunk=chunk, causal=causal, cumsum=cumsum)
    )


def test_a_tpu_is_given_the_kernel() -> None:
    """The module for TPUs holds the kernel, for any batch and length; those for other platforms do not."""
    graph = Lowering.of("jax:tpu-v4").run(mixed("bf16"))
    assert {node.op for node in graph.nodes} == KERNELS.keys() == TABLE.keys()
    apply = function(graph)
    for platform, calls in (("tpu", 1), ("cpu", 0)):
        module = imported(exported(apply, (platform,)), platform).mlir_module()
        assert module.count("tpu_custom_call") == calls


@every_kind
def test_forward_and_backward_lower_for_a_tpu_with_sizes_open(causal: bool, lin_norm: str) -> None:
    from jax import export

    run = partial(mixed_chunk_attention, chunk=128, causal=causal, lin_norm=lin_norm)
    batch, length = export.symbolic_shape("B, T")
    shapes = [(batch, length, 64)] * 4 + [(batch, length, 256), (128, 128)]
    specs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]  # type: ignore[no-untyped-call]
    gradients = jax.grad(lambda *operands: run(*operands).sum(), argnums=tuple(range(6)))
    for call, kernels in ((run, 1), (gradients, 2)):  # the sum needs no forward one
        module = export.export(jax.jit(call), platforms=["tpu"])(*specs).mlir_module()
        assert module.count("tpu_custom_call") == kernels


@pytest.mark.parametrize(
    "graph",
    [mixed("f16"), mixed(chunk=64), mixed(chunk=1024), mixed(width=96), mixed(segments=True), mixed(cumsum="matmul")],
    ids=["float16", "narrow", "memory", "width", "segments", "strategy"],
)
def test_what_the_kernel_does_not_do_descends(graph: Graph) -> None:
    assert not any(has_kernel(node) for node in graph.nodes)
    assert not KERNELS.keys() & {node.op for node in Lowering.of("jax:tpu-v4").run(graph).walk()}


def test_without_causality_there_is_no_strategy_to_choose() -> None:
    assert all(has_kernel(node) for node in mixed(causal=False, cumsum="native").nodes)


def test_the_cost_model_chooses_between_the_kernel_and_its_alternatives() -> None:
    """Each strategy is a candidate with a time of its own; the kernel is one of them."""
    open_ = flashir.model("flash", d_model=64, depth=2, vocab=11)
    found = flashir.plan(open_, "jax:tpu-v4", seq_len=4096, chunk=256)
    times = {each.cumsum: each.predicted_ms for each in found.candidates}
    assert len(set(times.values())) == len(times) == 3
    kernels = {
        cumsum: KERNELS.keys()
        <= {n.op for n in flashir_jax.lower(open_, "jax:tpu-v4", chunk=256, cumsum=cumsum).walk()}
        for cumsum in times
    }
    assert kernels == {"scan": True, "matmul": False, "native": False}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_other_devices_are_given_its_parts(device: str) -> None:
    assert not KERNELS.keys() & {node.op for node in Lowering.of(f"jax:{device}").run(mixed()).walk()}


@cache
def model() -> Graph:
    return flash(128, d_model=64, depth=2, dtype="float32")


def test_a_model_lowered_for_a_tpu_computes_the_same_elsewhere() -> None:
    graph = Lowering.of("jax:tpu-v4").run(model())
    assert KERNELS.keys() & {node.op for node in graph.walk()}
    params, ids = unit(model()), tokens(model(), 1, 130)
    assert (
        relative_error(np.asarray(jax.jit(function(graph))(params, *ids)), interpret(model(), params, *ids)[0]) < 1e-4
    )


@pytest.mark.slow
def test_the_artefact_of_a_model_with_the_kernel(tmp_path: Path) -> None:
    found = flashir.export(model(), tmp_path, "jax:tpu-v4", seed=0)
    manifest = read_manifest(found.path)
    assert len(set(manifest.functions.values())) == 2
    checks = "\n".join(found.checks)
    assert "a StableHLO module each for tpu and cpu; tpu is not available, only the other runs on cpu here" in checks
    assert "on a tpu, chunked_recurrence is a Pallas kernel; on cpu, its parts" in checks
    ids = tokens(model(), 2, 5)
    wanted = interpret(model(), flashir.init(model()), *ids)[0]
    assert relative_error(TPU.load(found.path, "cpu")[1](ids), wanted) < 1e-4


def test_the_state_is_float32_whatever_the_type() -> None:
    assert DType.BF16.bytes == 2
    jaxpr = str(jax.make_jaxpr(kernel(True, "none"))(*(jnp.asarray(x, jnp.bfloat16) for x in drawn(8))))
    assert f"f32[{KEYS},{WIDTH}]" in jaxpr
