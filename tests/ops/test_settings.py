"""What FLASH could have been (section 3.2.1, Appendix A), and what checkpoints of it are, one token at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flashir
from flashir import interpret
from flashir.errors import FlashirError
from flashir.ir import Builder, Graph
from tests.support import Array, assert_equal_results, lowered, random_parameters

D, E, S, C = 6, 12, 8, 3
causal_or_not = pytest.mark.parametrize("causal", [True, False])
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"overlap": True},
    {"overlap": True, "use_global": False},
    {"overlap": True, "rel_bias": "t5"},
    {"summaries": "attend"},
    {"summaries": "attend", "use_local": False},
    {"summaries": "attend", "overlap": True, "head_order": "sum_k quad_q lin_q sum_q quad_k lin_k"},
    {"token_shift": True},
    {"rel_bias": "t5"},
    {"rope_dims": 4},
    {"rope_dims": 4, "rope_interleaved": True, "head_order": "quad_q lin_q quad_k lin_k"},
)


def layer(**settings: Any) -> Graph:
    b = Builder("layer")
    return b.finish(b.flash(b.input("x", f"f32[1, T, {D}]"), key_dim=S, chunk=C, cumsum="native", **settings))


@causal_or_not
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s)) or "none")
def test_flash_with_settings_is_code_8_one_token_at_a_time(settings: dict[str, Any], causal: bool) -> None:
    graph = layer(causal=causal, **settings)
    params, primitives = random_parameters(graph), lowered(graph)
    p = {name.removeprefix("layers.0."): value for name, value in params.items()}
    for length in (1, C, 2 * C + 2):
        x = np.random.default_rng(0).normal(size=(length, D))
        wanted = transcribed(x, p, causal=causal, **settings)[None]
        assert_equal_results(interpret(graph, params, x[None]), (wanted,))
        assert_equal_results(interpret(primitives, params, x[None]), (wanted,))


def transcribed(
    x: Array,
    p: dict[str, Array],
    *,
    causal: bool,
    overlap: bool = False,
    use_local: bool = True,
    use_global: bool = True,
    summaries: str = "sum",
    rel_bias: str = "paper",
    token_shift: bool = False,
    rope_dims: int = S,
    rope_interleaved: bool = False,
    head_order: str = "quad_q quad_k lin_q lin_k sum_q sum_k",
) -> Array:
    """Code 8 in loops over tokens, with every setting."""
    t = len(x)
    h = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["norm.scale"] + p["norm.bias"]
    if token_shift:
        before = np.concatenate([np.zeros((1, D)), h[:-1]])
        h = np.concatenate([before[:, : D // 2], h[:, D // 2 :]], -1)
    h = h @ p["proj_in.weight"] + p["proj_in.bias"]
    u, v, z = np.split(h / (1 + np.exp(-h)), [E, 2 * E], axis=-1)
    needed = {"quad": use_local, "lin_": use_global, "sum_": summaries == "attend"}
    order = [name for name in head_order.split() if needed[name[:4]]]
    heads = {
        name: np.array([turned(row * gamma + beta, i, rope_dims, rope_interleaved) for i, row in enumerate(z)])
        for name, gamma, beta in zip(order, p["offset_scale.gamma"], p["offset_scale.beta"], strict=True)
    }
    chunks = [range(at, min(at + C, t)) for at in range(0, t, C)]
    attended = np.zeros((t, E))
    for i in range(t):
        g = i // C
        for j in range(t) if use_local else ():
            near = j // C == g or (overlap and j // C == g - 1)
            if near and (j <= i or not causal):
                score = heads["quad_q"][i] @ heads["quad_k"][j] / C + bias(p, rel_bias, j - i, causal)
                attended[i] += max(score, 0) ** 2 * v[j]
        seen = range(g) if causal else range(len(chunks))
        for other in seen if use_global else ():
            weight = 1.0
            if summaries == "attend":
                asks = heads["sum_q"][list(chunks[g - 1 if causal else g])].mean(0)
                score = asks @ heads["sum_k"][list(chunks[other])].mean(0) + between(p, g, other)
                weight = max(score, 0) ** 2
            for j in chunks[other]:
                attended[i] += weight * (heads["lin_q"][i] @ heads["lin_k"][j]) * v[j] / C / len(seen)
    return np.asarray((u * attended) @ p["proj_out.weight"] + p["proj_out.bias"] + x)


def turned(x: Array, position: int, dims: int, interleaved: bool) -> Array:
    out, half = x.copy(), dims // 2
    for k in range(half):
        one, two = (2 * k, 2 * k + 1) if interleaved else (k, k + half)
        angle = position * 10000.0 ** (-k / half)
        out[one] = x[one] * np.cos(angle) - x[two] * np.sin(angle)
        out[two] = x[two] * np.cos(angle) + x[one] * np.sin(angle)
    return out


def bias(p: dict[str, Array], kind: str, distance: int, causal: bool) -> float:
    """Of a key so far after its query."""
    if kind == "t5":  # all distances here are short: 16 buckets, or 8 on each side, hold one distance each
        return float(p["rel_bias.buckets"][-distance if distance <= 0 else 16 + distance])
    w = p["rel_bias.w"]
    return float(w[distance + len(w) // 2])


def between(p: dict[str, Array], g: int, other: int) -> float:
    """Code 4, the long form, between two chunks."""
    a, b = (turned(p[f"sum_bias.{name}"], at, 128, False) for name, at in (("a", g), ("b", other)))
    return float(a @ b)


def test_the_buckets_of_t5() -> None:
    """As published: 32 buckets, half of them exact, the last from 128 on."""
    b = Builder("bias")
    graph = b.finish(b.bucket_rel_pos_bias(b.input("w", "f32[32]"), n=140, causal=True))
    buckets = interpret(graph, {}, np.arange(32))[0][139, ::-1]
    known = {
        0: 0,
        1: 1,
        15: 15,
        16: 16,
        18: 16,
        19: 17,
        20: 17,
        21: 18,
        32: 21,
        64: 26,
        112: 30,
        113: 31,
        128: 31,
        139: 31,
    }
    assert {distance: int(buckets[distance]) for distance in known} == known
    both = b.finish(b.bucket_rel_pos_bias(b.inputs[0], n=140, causal=False))
    buckets = interpret(both, {}, np.arange(32))[0]
    known = {0: 0, 7: 7, 8: 8, 11: 8, 12: 9, 16: 10, 32: 12, 64: 14, 91: 15, 139: 15}
    assert {distance: int(buckets[139, 139 - distance]) for distance in known} == known
    assert {distance: int(buckets[0, distance]) for distance in known if distance} == {
        k: 16 + v for k, v in known.items() if k
    }


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s)) or "none")
def test_the_past_is_untouched_bit_for_bit(settings: dict[str, Any]) -> None:
    graph = layer(causal=True, **settings)
    params, x = random_parameters(graph), np.random.default_rng(0).normal(size=(1, 11, D))
    for each in (graph, lowered(graph)):
        before = interpret(each, params, x)[0]
        for t in (0, 2, 3, 7, 10):
            changed = x.copy()
            changed[0, t] += 1
            after = interpret(each, params, changed)[0]
            assert np.array_equal(before[:, :t], after[:, :t])
            assert not np.array_equal(before[:, t], after[:, t])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"overlap": True, "use_local": False}, "local part, which is off"),
        ({"summaries": "attend", "use_global": False}, "global part, which is off"),
        ({"summaries": "attend", "head_order": "quad_q quad_k lin_q lin_k"}, "sum_q, sum_k, each once"),
        ({"head_order": "quad_q quad_q lin_q lin_k"}, "each once"),
        ({"head_order": "a b c d"}, "each once"),
        ({"rope_dims": 3}, "rope_dims must be even"),
        ({"rope_dims": 500}, "at most the width of a head"),
        ({"rel_bias": "t6"}, "must be one of 'paper', 't5'"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(FlashirError, match=said):
        flashir.model("flash", size="tiny", **settings)


def test_attending_summaries_are_masked_products_alone() -> None:
    """Weights leave no running sum, so that there is one strategy."""
    model = flashir.model("flash", size="tiny", summaries="attend", chunk=64)
    plan = flashir.plan(model, target="onnx:cpu", seq_len=256)
    assert plan.cumsum == "matmul"


def test_parameters_of_chunks_that_overlap_tell_the_chunk() -> None:
    """The bias spans two chunks."""
    params = flashir.init(flashir.model("flash", size="tiny", overlap=True, chunk=48))
    plan = flashir.plan(flashir.model("flash", size="tiny", overlap=True), seq_len=256, params=params)
    assert plan.chunk == 48
