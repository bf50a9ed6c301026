"""The cost model: what it must say of graphs whose cost is plain to see, and laws that hold for all."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flashir
from flashir.backends.lowering import Lowering
from flashir.cost import estimate
from flashir.cost.backward import reached
from flashir.cost.estimate import LAUNCH, MATRIX, REDUCE, STEP, TRAFFIC, WASTE
from flashir.cost.fusion import KernelGraph
from flashir.errors import TargetError
from flashir.ir import Builder
from flashir.ir.types import DType
from flashir.machine.targets import target
from flashir.planning.workload import Workload

RECORD = replace(
    target("torch:a100"),
    fuses=False,
    efficiency=1.0,
    tile=(1, 1, 1),
    overlap=1.0,
    cache=1e4,
    launch=1e-5,
    step=1e-3,
    peak={"f32": 1e12},
    bandwidth=1e12,
    cache_bandwidth=1e13,
    slowdown={"scan": 1.0},
)


def product(m=100, k=200, n=300):
    b = Builder("product")
    return b.finish(b.matmul(b.input("x", f"f32[{m}, {k}]"), b.input("y", f"f32[{k}, {n}]")))


def elementwise(count, size=10**6):
    b = Builder("chain")
    x = b.input("x", f"f32[{size}]")
    y = x
    for _ in range(count):
        y = b.add(y, x)
    return b.finish(y)


def test_a_product_takes_its_flops_over_the_peak():
    found = estimate(product(1000, 1000, 1000), RECORD, {})
    assert found.terms[MATRIX] == pytest.approx(1e3 * 2 * 1000**3 / 1e12)
    assert found.terms[LAUNCH] == pytest.approx(0.01)


def test_a_thin_product_takes_its_traffic():
    found = estimate(product(10**6, 1, 1), RECORD, {})
    assert found.ms == pytest.approx(1e3 * 4 * (2 * 10**6 + 1) / 1e12 + 0.01, rel=1e-3)


def test_sizes_are_rounded_up_to_the_tile_and_the_waste_is_named():
    tiled = replace(RECORD, tile=(128, 128, 128))
    found = estimate(product(129, 128, 128), tiled, {})
    assert found.terms[WASTE] == pytest.approx(found.terms[MATRIX] * (256 / 129 - 1))


def test_a_fusing_target_runs_a_chain_as_one_kernel():
    fused = KernelGraph(elementwise(8), {}, fuses=True)
    apart = KernelGraph(elementwise(8), {}, fuses=False)
    assert len(fused.kernels) == 1 and len(apart.kernels) == 8
    assert fused.kernels[0].bytes == 4 * 2 * 10**6
    assert sum(kernel.bytes for kernel in apart.kernels) == pytest.approx(4 * 10**6 * (2 + 7 * 3))


def test_who_has_causal_attention_whole_skips_what_is_masked():
    def flops(causal):
        b = Builder("attention")
        q, k, v = (b.input(name, "f32[2, 3, 100, 8]") for name in "qkv")
        graph = b.finish(b.softmax_attention(q, k, v, causal=causal, scale=1.0))
        return KernelGraph(graph, {}, fuses=False).kernels[0].contractions[0].flops

    assert flops(causal=True) == flops(causal=False) / 2


def test_a_library_s_product_is_a_kernel_of_its_own():
    b = Builder("follow")
    x, w = b.input("x", "f32[10, 20]"), b.input("w", "f32[20, 30]")
    graph = b.finish(b.relu(b.add(b.matmul(x, w), 1.0)))
    apart = KernelGraph(graph, {}, fuses=True, epilogues=False).kernels
    assert [[node.op for node in kernel.nodes] for kernel in apart] == [["matmul"], ["add", "relu"]]


def test_a_product_and_what_follows_it_are_one_kernel_where_the_target_fuses():
    b = Builder("epilogue")
    x, y = b.input("x", "f32[8, 8]"), b.input("y", "f32[8, 8]")
    graph = b.finish(b.relu(b.add(b.matmul(x, y), x)))
    assert len(KernelGraph(graph, {}, fuses=True).kernels) == 1


def test_a_target_may_fuse_with_products_alone():
    b = Builder("products_alone")
    x, w = b.input("x", "f32[8, 8]"), b.input("w", "f32[8, 8]")
    graph = b.finish(b.relu(b.add(b.matmul(b.neg(b.silu(x)), w), x)))
    kernels = KernelGraph(graph, {}, fuses=False, epilogues=True).kernels
    assert [[node.op for node in kernel.nodes] for kernel in kernels] == [["silu"], ["neg"], ["matmul", "add", "relu"]]
    assert kernels[-1].written.keys() == set(graph.outputs)


def test_an_op_slows_down_the_kernel_that_begins_with_it():
    b, c = Builder("alone"), Builder("behind")
    alone = b.finish(b.silu(b.input("x", "f32[512, 512]")))
    behind = c.finish(c.silu(c.matmul(c.input("x", "f32[512, 512]"), c.input("w", "f32[512, 512]"))))
    fast, slow = (replace(RECORD, epilogues=True, slowdown={"silu": factor}, launch=0.0) for factor in (1.0, 3.0))
    assert estimate(alone, slow, {}).ms == pytest.approx(3 * estimate(alone, fast, {}).ms)
    assert estimate(behind, slow, {}).ms == estimate(behind, fast, {}).ms


def test_a_loop_takes_a_step_a_round():
    b = Builder("loop")
    start, walked = b.input("start", "f32[4]"), b.input("x", "f32[50, 4]")
    body = b.subgraph()
    state, item = body.input("state", "f32[4]"), body.input("item", "f32[4]")
    last, _ = b.results("scan", start, walked, carries=1, axis=0, body=body.finish(body.add(state, item), state))
    found = estimate(b.finish(last), RECORD, {})
    assert found.terms[STEP] == pytest.approx(1e3 * 50 * 1e-3)
    assert found.terms[LAUNCH] == pytest.approx(1e3 * 50 * 1e-5)


def test_a_repeat_takes_its_body_so_many_times():
    def layers(times):
        model = flashir.model("flash", size="tiny", depth=times, chunk=16, cumsum="native")
        return estimate(Lowering.of("onnx:cpu").run(model), target("onnx:cpu"), {"B": 1, "T": 64}).ms

    assert layers(7) - layers(5) == pytest.approx(layers(4) - layers(2))


def test_memory_is_the_weights_and_what_is_alive_at_once():
    size = 10**6
    found = estimate(elementwise(8, size), RECORD, {})
    assert found.peak_bytes == 2 * 4 * size  # one result dies as the next is made; the input is the caller's


def test_training_keeps_what_gradients_read():
    """The gradient of a sum reads nothing, that of a product both factors."""
    b = Builder("kept")
    x = b.input("x", f"f32[{10**6}]")
    y = b.mul(b.add(b.add(x, x), x), x)
    for _ in range(8):
        y = b.add(y, x)
    found = estimate(b.finish(y), RECORD, {}, training=True)
    kept, read, made, gradients, loss = 1, 1, 1, 3, 1
    assert found.peak_bytes == (kept + read + made + gradients + loss) * 4 * 10**6


def test_a_fusing_target_keeps_what_a_kernel_reads_not_what_stays_inside():
    b = Builder("inside")
    x, w = b.input("x", "f32[64, 64]"), b.input("w", "f32[64, 64]")
    h = b.tanh(b.mul(x, x))
    graph = b.finish(b.matmul(b.tanh(b.matmul(h, w)), w))
    names = [value.name for value in KernelGraph(graph, {}, fuses=True, reached=reached(graph)).saved]
    assert sorted(names) == ["tanh_0", "tanh_1", "w", "x"]


def test_a_step_that_keeps_nothing_has_nothing_to_recompute():
    b = Builder("one")
    w = b.insert("param", [], {"name": "w", "shape": (64, 64)})[0]
    graph = b.finish(b.matmul(b.input("x", "f32[B, T, 64]"), w))
    with pytest.raises(TargetError, match="needs at least"):
        flashir.plan(graph, "jax:tpu-v4", 2**14, 2**14, True)


def test_what_no_gradient_reaches_has_none_and_is_kept_for_others_alone():
    """Of a factor and a constant one, the constant is kept; of two constant ones nothing."""
    b = Builder("rotated")
    x = b.input("x", "f32[64, 64]")
    ids = b.input("ids", "i64[64, 64]")
    angles = b.sin(b.cast(ids, dtype=DType.F32))
    graph = b.finish(b.add(b.mul(x, angles), b.matmul(x, b.mul(angles, angles))))
    names = [value.name for value in KernelGraph(graph, {}, fuses=False, reached=reached(graph)).saved]
    assert sorted(names) == ["mul_1", "sin_0"]


def test_a_side_that_no_gradient_reaches_costs_no_product():
    def products(side):
        b = Builder("mask")
        x, w = b.input("x", f"{side}[64, 64]"), b.input("w", "f32[64, 64]")
        return estimate(b.finish(b.matmul(b.cast(x, dtype=DType.F32), w)), RECORD, {}, training=True).terms[MATRIX]

    assert products("f32") == pytest.approx(1.5 * products("i64"))


def test_a_gradient_comes_back_into_a_loop_by_what_its_rounds_hand_on():
    b = Builder("loop")
    w = b.insert("param", [], {"name": "w", "shape": (8,)})[0]
    start = b.cast(b.input("ids", "i64[8]"), dtype=DType.F32)
    graph = b.finish(b.repeat(start, w, times=3, body=lambda b, h, w: b.add(b.tanh(h), w)))
    body = graph.nodes[-1].region
    assert body is not None
    assert {body.inputs[0], body.outputs[0], graph.outputs[0]} <= reached(graph)
    assert start not in reached(graph)


def test_a_product_with_a_vector_is_not_padded():
    record = replace(RECORD, tile=(128, 128, 128))
    for thin in (product(1, 64, 64), product(64, 1, 64), product(64, 64, 1)):
        assert estimate(thin, record, {}).terms[WASTE] == 0


def test_a_loop_keeps_what_every_round_reads_of_the_one_before():
    def peak(times):
        b = Builder("loop")
        x = b.input("x", f"f32[{10**6}]")
        graph = b.finish(b.repeat(x, times=times, body=lambda b, h: b.mul(h, h)))
        return estimate(graph, RECORD, {}, training=True).peak_bytes

    assert peak(7) - peak(5) == 2 * 4 * 10**6


def test_a_step_is_a_run_its_gradients_and_the_loss():
    graph = elementwise(8)
    forward, step = estimate(graph, RECORD, {}), estimate(graph, RECORD, {}, training=True)
    loss = 1e3 * 3 * 4 * 10**6 / RECORD.bandwidth
    assert step.terms[TRAFFIC] == pytest.approx(2 * forward.terms[TRAFFIC] + loss)
    assert step.terms[LAUNCH] == pytest.approx(2 * forward.terms[LAUNCH])
    matrix = product(1000, 1000, 1000)
    assert estimate(matrix, RECORD, {}, training=True).terms[MATRIX] == pytest.approx(
        3 * estimate(matrix, RECORD, {}).terms[MATRIX]
    )


def test_what_has_no_room_is_computed_again_where_the_target_does_so():
    model = flashir.model("transformer++", size="base")
    lowered = Lowering.of("jax:tpu-v4", check=False).run(model)
    roomy, tight = replace(target("jax:tpu-v4"), memory=2**40), target("jax:tpu-v4")

    def step(record):
        return estimate(lowered, record, {"B": 1, "T": 8192}, training=True)

    assert step(roomy).peak_bytes > tight.memory
    assert step(tight).peak_bytes <= tight.memory
    assert 1 < step(tight).ms / step(roomy).ms < 4 / 3
    assert step(replace(tight, recomputes=False)).peak_bytes == step(roomy).peak_bytes


def test_several_devices_sum_up_their_gradients():
    model = flashir.model("flash", size="tiny", chunk=16, cumsum="matmul")
    lowered = Lowering.of("jax:tpu-v4").run(model)
    alone, many = (estimate(lowered, target(f"jax:tpu-v4{n}"), {"B": 1, "T": 64}, training=True) for n in ("", "x8"))
    assert alone.terms.get(REDUCE, 0.0) == 0.0
    assert many.terms[REDUCE] > 0


@pytest.mark.slow
@given(
    chunk=st.sampled_from((16, 64)),
    cumsum=st.sampled_from(("scan", "matmul", "native")),
    name=st.sampled_from(("onnx:cpu", "jax:tpu-v4", "torch:v100")),
    seq_len=st.integers(1, 3000),
    batch=st.integers(1, 8),
    training=st.booleans(),
)
def test_terms_add_up_and_more_work_never_takes_less(chunk, cumsum, name, seq_len, batch, training):
    model = flashir.model("flash", size="tiny", chunk=chunk, cumsum=cumsum)
    lowered = Lowering.of(name, check=False).run(model)
    record = replace(target(name), cache=1.0)  # without the jump where tensors leave the cache

    def found(workload):
        return estimate(lowered, record, workload.sizes(model), training=training)

    once = found(Workload(batch, seq_len))
    assert once.ms == pytest.approx(sum(once.terms.values()))
    assert all(value >= -1e-12 for value in once.terms.values())
    assert found(Workload(batch + 1, seq_len)).ms >= once.ms
    assert found(Workload(batch, seq_len + chunk)).peak_bytes >= once.peak_bytes
