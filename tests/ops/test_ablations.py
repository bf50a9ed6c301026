"""The rows of Table 1 as settings of gau: the paper's counts, and each written out in numpy once more."""

from __future__ import annotations

from math import erf
from typing import Any

import numpy as np
import pytest

import flashir
from flashir import interpret
from flashir.ir.parameter_count import parameter_count
from flashir.transforms.lower import Lower
from tests.support import Array, random_parameters

TABLE_1 = (
    ({}, 105),
    ({"attention": "softmax"}, 105),
    ({"heads": 8}, 105),
    ({"gating": False}, 131),
)
"""Settings of flash-quad with the 22 layers of Figure 3, and millions of parameters as the paper prints them."""


@pytest.mark.parametrize(("settings", "millions"), TABLE_1)
def test_the_counts_of_table_1(settings: dict[str, Any], millions: int) -> None:
    assert round(parameter_count(flashir.model("flash-quad", depth=22, max_len=512, **settings)) / 1e6) == millions


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("gating", [True, False])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("attention", ["relu2", "softmax", "laplace"])
def test_one_token_at_a_time(attention: str, heads: int, gating: bool, causal: bool) -> None:
    """Every query by itself, in loops, against the interpreter."""
    d, e, s, t = 6, 12, 8, 5
    b = flashir.Builder("unit")
    x = b.input("x", f"f32[1, {t}, {d}]")
    settings: dict[str, Any] = {"attention": attention, "heads": heads, "gating": gating, "causal": causal}
    graph = b.finish(b.gau(x, key_dim=s, max_len=7, qk_scale="sqrt_key", **settings))
    p = {name.removeprefix("layers.0."): value for name, value in random_parameters(graph).items()}
    tokens = np.random.default_rng(0).normal(size=(t, d))

    h = (tokens - tokens.mean(-1, keepdims=True)) / np.sqrt(tokens.var(-1, keepdims=True) + 1e-5)
    h = (h * p["norm.scale"] + p["norm.bias"]) @ p["proj_in.weight"] + p["proj_in.bias"]
    u, v, z = np.split(h / (1 + np.exp(-h)), [e, 2 * e], axis=-1)
    q, k = (z * g + c for g, c in zip(p["offset_scale.gamma"], p["offset_scale.beta"], strict=True))
    attended = np.zeros((t, e))
    for head in range(heads):
        keys = slice(head * s // heads, (head + 1) * s // heads)
        values = slice(head * e // heads, (head + 1) * e // heads)
        for i in range(t):
            seen = range(i + 1 if causal else t)
            scores = [turned(q[i, keys], i) @ turned(k[j, keys], j) / np.sqrt(s / heads) for j in seen]
            weights = KERNELS[attention](np.array([a + p["rel_bias.w"][j - i + 6] for j, a in zip(seen, scores)]))
            attended[i, values] = sum(w * v[j, values] for j, w in zip(seen, weights))
    joined = u * attended if gating else np.concatenate([u, attended], -1)
    wanted = joined @ p["proj_out.weight"] + p["proj_out.bias"] + tokens
    got = interpret(graph, random_parameters(graph), tokens[None])[0][0]
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)


def turned(x: Array, position: int) -> Array:
    """RoPE of one vector (Code 3)."""
    half = len(x) // 2
    angle = position * 10000.0 ** (-np.arange(half) / half)
    return np.concatenate([x[:half] * np.cos(angle) - x[half:] * np.sin(angle),
                           x[half:] * np.cos(angle) + x[:half] * np.sin(angle)])  # fmt: skip


KERNELS: dict[str, Any] = {
    "relu2": lambda a: np.maximum(a, 0) ** 2,
    "softmax": lambda a: np.exp(a) / np.exp(a).sum(),
    "laplace": lambda a: np.array([0.5 * (1 + erf((x - 0.5**0.5) / (0.5 / np.pi**0.5 * 2**0.5))) for x in a]),
}


def test_a_padded_row_does_not_count_under_softmax() -> None:
    """Values of 0 would still count in the sum that a softmax divides by."""
    b = flashir.Builder("unit")
    x = b.input("x", "f32[1, 5, 4]")
    graph = b.finish(b.gau(x, key_dim=4, max_len=8, attention="softmax", causal=False, qk_scale="none", valid=3))
    params, tokens = random_parameters(graph), np.random.default_rng(0).normal(size=(1, 5, 4))
    simpler = Lower().apply(graph)
    wanted = interpret(graph, params, tokens)[0][:, :3]
    np.testing.assert_allclose(interpret(simpler, params, tokens)[0][:, :3], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("settings", [{"heads": 3}, {"heads": 16}, {"attention": "tanh"}])
def test_what_does_not_fit_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(flashir.FlashirError):
        flashir.model("flash-quad", size="tiny", **settings)
