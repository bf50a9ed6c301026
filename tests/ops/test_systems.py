"""The systems that FLASH is compared with, against transcriptions of their own: one token, one head at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flashir
from flashir import interpret
from flashir.errors import FlashirError
from flashir.ir import Builder, Graph
from tests.support import Array, assert_equal_results, lowered, random_array, random_inputs, random_parameters, typed

causal_or_not = pytest.mark.parametrize("causal", [True, False])


def block(name: str, length: int, d: int = 8, **attrs: Any) -> tuple[Graph, dict[str, Array], Array]:
    """One block over f32[2, length, d], random parameters and operands."""
    b = Builder(name)
    graph = b.finish(b.insert(name, (b.input("x", f"f32[2, {length}, {d}]"),), attrs)[0])
    (x,) = random_inputs(graph)
    return graph, random_parameters(graph), x


def is_both(graph: Graph, params: dict[str, Array], x: Array, wanted: Array) -> None:
    """The interpreter's reading of the block and that of its lowering are as wanted."""
    assert_equal_results(interpret(graph, params, x), (wanted,))
    assert_equal_results(interpret(lowered(graph), params, x), (wanted,))


def normed(x: Array, p: dict[str, Array], name: str) -> Array:
    """LayerNorm, row by row."""
    out = np.empty_like(x)
    for at in np.ndindex(*x.shape[:-1]):
        row = x[at]
        out[at] = (row - row.mean()) / np.sqrt(((row - row.mean()) ** 2).mean() + 1e-5)
    return out * p[f"{name}.scale"] + p[f"{name}.bias"]


def rotated(x: Array, position: float) -> Array:
    """Code 3 for one vector."""
    half = len(x) // 2
    angle = position * 10000.0 ** -(np.arange(half) / half)
    return np.concatenate(
        [
            x[:half] * np.cos(angle) - x[half:] * np.sin(angle),
            x[half:] * np.cos(angle) + x[:half] * np.sin(angle),
        ]
    )


def shifted(x: Array) -> Array:
    """The first half of the channels from the row before."""
    before = np.concatenate([np.zeros_like(x[:, :1]), x[:, :-1]], 1)
    return np.concatenate([before[..., :4], x[..., 4:]], -1)


def heads_of(
    x: Array, p: dict[str, Array], heads: int, shift: bool = False, part: str = "layers.0.attn"
) -> list[Array]:
    """q, k, v, each [b, h, t, s]."""
    h, d = normed(x, p, f"{part}.norm"), x.shape[-1]
    h = shifted(h) if shift else h
    qkv = h @ p[f"{part}.qkv.weight"] + p[f"{part}.qkv.bias"]
    s = d // heads
    return [
        np.stack([qkv[:, :, i * d + head * s : i * d + (head + 1) * s] for head in range(heads)], 1) for i in range(3)
    ]


def joined(x: Array, out: Array, p: dict[str, Array], part: str = "layers.0.attn") -> Array:
    """Heads [b, h, t, s] side by side, projected, on top of x."""
    rows = np.concatenate([out[:, head] for head in range(out.shape[1])], -1)
    return x + rows @ p[f"{part}.out.weight"] + p[f"{part}.out.bias"]


def softmaxed(scores: list[float]) -> Array:
    powers = np.exp(np.array(scores) - max(scores))
    return np.asarray(powers / powers.sum())


def turned(x: Array, rope: bool) -> Array:
    """Every vector of [b, h, t, s] by its position."""
    out = x.copy()
    for b, h, t in np.ndindex(*x.shape[:3]):
        out[b, h, t] = rotated(x[b, h, t], t) if rope else x[b, h, t]
    return out


@causal_or_not
@pytest.mark.parametrize("rope", [True, False])
@pytest.mark.parametrize("length", [0, 1, 6])
def test_mhsa(length: int, rope: bool, causal: bool) -> None:
    graph, p, x = block("mhsa", length, heads=2, rope=rope, causal=causal)
    q, k, v = heads_of(x, p, 2)
    q, k, out = turned(q, rope), turned(k, rope), np.zeros_like(v)
    for b, h, t in np.ndindex(*out.shape[:3]):
        seen = range(t + 1) if causal else range(length)
        weights = softmaxed([q[b, h, t] @ k[b, h, m] / 2 for m in seen])  # sqrt(s) = 2
        out[b, h, t] = sum(w * v[b, h, m] for w, m in zip(weights, seen))
    is_both(graph, p, x, joined(x, out, p))


@causal_or_not
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize(("attention", "gating"), [("softmax", True), ("relu2", False), ("relu2", True)])
def test_the_rows_of_table_2(attention: str, gating: bool, shift: bool, causal: bool) -> None:
    graph, p, x = block("mhsa", 5, heads=2, attention=attention, gating=gating, causal=causal, token_shift=shift)
    q, k, v = heads_of(x, p, 2, shift)
    q, k, out = turned(q, True), turned(k, True), np.zeros_like(v)
    for b, h, t in np.ndindex(*out.shape[:3]):
        seen = range(t + 1) if causal else range(5)
        scores = [q[b, h, t] @ k[b, h, m] / 2 for m in seen]
        weights = softmaxed(scores) if attention == "softmax" else np.maximum(scores, 0) ** 2 / 5
        out[b, h, t] = sum(w * v[b, h, m] for w, m in zip(weights, seen))
    if gating:
        part = "layers.0.attn"
        read = normed(x, p, f"{part}.norm")
        gate = (shifted(read) if shift else read) @ p[f"{part}.gate.weight"] + p[f"{part}.gate.bias"]
        gate = gate / (1 + np.exp(-gate))
        out = out * np.stack([gate[..., :4], gate[..., 4:]], 1)
    is_both(graph, p, x, joined(x, out, p))


def test_gelu_is_the_tanh_form() -> None:
    b = Builder()
    x = np.linspace(-8, 8, 33)
    graph = b.finish(b.gelu(b.input("x", "f32[33]")))
    wanted = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    assert_equal_results(interpret(lowered(graph), {}, x), (wanted,))
    assert_equal_results(interpret(graph, {}, x), (wanted,))


def test_a_softmax_of_large_numbers_does_not_overflow() -> None:
    b = Builder()
    graph = b.finish(b.softmax(b.input("x", "f32[3]")))
    wanted = np.array([0.0, 1.0, np.exp(-700.0)])
    for made in (graph, lowered(graph)):
        np.testing.assert_allclose(interpret(made, {}, np.array([-1e4, 1e4, 1e4 - 700]))[0], wanted, rtol=1e-9)


def gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def test_the_feed_forward_blocks() -> None:
    graph, p, x = block("mlp", 5)
    h = normed(x, p, "layers.0.ffn.norm")
    p = {name.removeprefix("layers.0.ffn."): value for name, value in p.items()}
    assert p["up.weight"].shape == (8, 32)
    wanted = x + gelu(h @ p["up.weight"] + p["up.bias"]) @ p["down.weight"] + p["down.bias"]
    is_both(graph, random_parameters(graph), x, wanted)

    graph, p, x = block("glu", 5)
    h = normed(x, p, "layers.0.ffn.norm")
    p = {name.removeprefix("layers.0.ffn."): value for name, value in p.items()}
    assert p["gate.weight"].shape == (8, 21)  # 8 d / 3, rounded down
    hidden = gelu(h @ p["gate.weight"] + p["gate.bias"]) * (h @ p["up.weight"] + p["up.bias"])
    is_both(graph, random_parameters(graph), x, x + hidden @ p["down.weight"] + p["down.bias"])


def test_learned_positions_are_added_and_end() -> None:
    graph, p, x = block("learned_position", 5, max_len=7)
    is_both(graph, p, x, x + p["pos.weight"][:5])
    with pytest.raises(FlashirError, match="max_len = 4 learned positions, the sequence has 5"):
        block("learned_position", 5, max_len=4)
    b = Builder()
    free = b.finish(b.learned_position(b.input("x", "f32[B, T, 8]"), max_len=4))
    for made in (free, lowered(free)):
        with pytest.raises(FlashirError):
            interpret(made, {"pos.weight": p["pos.weight"][:4]}, random_array(typed("f32[2, 5, 8]"), 0))


@pytest.mark.parametrize(
    ("name", "attrs", "message"),
    [
        ("mhsa", {"heads": 3}, "heads must divide the width, got 3 heads"),
        ("mhsa", {"heads": 8}, "heads must have an even width, got 1"),
        ("mlp", {"expansion": 0.3}, "not a whole number"),
        ("mlp", {"expansion": 0}, "gives a hidden width of 0"),
        ("glu", {"expansion": 0}, "gives a hidden width of 0"),
        ("combiner", {"chunk": 0}, "chunk must be at least 1"),
        ("mhsa", {"attention": "laplace"}, "attention must be one of 'softmax', 'relu2'"),
        ("performer", {"tile": 0}, "tile must be at least 1"),
        ("performer", {"chunk": 4}, "no attribute 'chunk'"),
        ("glu", {"activation": "relu"}, "no attribute 'activation'"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(FlashirError, match=message):
        block(name, 4, **attrs)


def test_attention_and_feed_forward_are_parts_of_one_layer() -> None:
    model = flashir.loads(
        """
        model @m(%x: f32[B, T, 8]) -> f32[B, T, 8] {
          %y = repeat(%x) {times = 2} (%h) {
            %a = mhsa(%h) {heads = 2}
            %f = mlp(%a)
            yield %f
          }
          return %y
        }
        """
    )
    names = set(flashir.init(model))
    parts = {".".join(name.split(".")[:3]) for name in names}
    assert parts == {f"layers.{i}.{part}" for i in range(2) for part in ("attn", "ffn")}
    assert "layers.1.attn.qkv.weight" in names and "layers.0.ffn.down.bias" in names


@causal_or_not
@pytest.mark.parametrize("length", [0, 1, 6])
def test_performer(length: int, causal: bool) -> None:
    """Eq. 6, token by token: a state of s x s and a sum of keys are all that is kept."""
    graph, p, x = block("performer", length, heads=2, causal=causal, cumsum="native", tile=4)
    q, k, v = heads_of(x, p, 2)
    q, k = (np.maximum(turned(each, True), 0) + 1e-3 for each in (q, k))
    out = np.zeros_like(v)
    for b, h in np.ndindex(*out.shape[:2]):
        state, total = np.zeros((4, 4)), np.zeros(4)
        for t in range(length):
            state, total = state + np.outer(k[b, h, t], v[b, h, t]), total + k[b, h, t]
            out[b, h, t] = q[b, h, t] @ state / (q[b, h, t] @ total)
        for t in range(0 if causal else length):
            out[b, h, t] = q[b, h, t] @ state / (q[b, h, t] @ total)
    is_both(graph, p, x, joined(x, out, p))


@pytest.mark.parametrize("cumsum", ["scan", "matmul", "native"])
@pytest.mark.parametrize("tile", [1, 2, 3, 7, 16])
def test_neither_tile_nor_strategy_changes_the_performer(cumsum: str, tile: int) -> None:
    graph, p, x = block("performer", 7, heads=2, cumsum="native", tile=4)
    other, _, _ = block("performer", 7, heads=2, cumsum=cumsum, tile=tile)
    assert_equal_results(interpret(lowered(other), p, x), interpret(lowered(graph), p, x))


@causal_or_not
@pytest.mark.parametrize("length", [0, 1, 4, 6, 7])
@pytest.mark.parametrize("chunk", [1, 3])
def test_combiner(length: int, chunk: int, causal: bool) -> None:
    """Appendix A, token by token: what a token sees is itself a list of keys and values."""
    graph, p, x = block("combiner", length, heads=2, causal=causal, chunk=chunk)
    part = "layers.0.attn"
    q, k, v = heads_of(x, p, 2)
    chunks = [range(at, min(at + chunk, length)) for at in range(0, length, chunk)]
    summaries = []
    for name, each in (("summary_k", k), ("summary_v", v)):
        whole = np.concatenate([each[:, 0], each[:, 1]], -1)
        made = [whole[:, list(at)].mean(1) @ p[f"{part}.{name}.weight"] + p[f"{part}.{name}.bias"] for at in chunks]
        summaries.append(made)
    q, k, out = turned(q, True), turned(k, True), np.zeros_like(v)
    for b, h, t in np.ndindex(*out.shape[:3]):
        own, half = t // chunk, slice(4 * h, 4 * h + 4)
        seen = [(k[b, h, m], v[b, h, m]) for m in chunks[own] if m <= t or not causal]
        for c in range(len(chunks)):
            if c < own or (c > own and not causal):
                middle = c * chunk + chunk // 2
                seen.append((rotated(summaries[0][c][b, half], middle), summaries[1][c][b, half]))
        weights = softmaxed([q[b, h, t] @ key / 2 for key, _ in seen])
        out[b, h, t] = sum(w * value for w, (_, value) in zip(weights, seen))
    is_both(graph, p, x, joined(x, out, p))


@causal_or_not
@pytest.mark.parametrize("name", ["combiner", "mc_mhsa"])
def test_one_chunk_is_softmax_attention(name: str, causal: bool) -> None:
    """Where one chunk holds the sequence, nothing is summarised; bidirectional MC-TFM++ still adds its linear part."""
    cumsum = {"cumsum": "native"} if name == "mc_mhsa" else {}
    graph, p, x = block(name, 6, heads=2, chunk=8, causal=causal, **cumsum)
    whole, _, _ = block("mhsa", 6, heads=2, causal=causal)
    same = np.allclose(interpret(lowered(graph), p, x)[0], interpret(lowered(whole), p, x)[0], rtol=1e-12)
    assert same == (causal or name == "combiner")


@causal_or_not
@pytest.mark.parametrize("lin_norm", ["none", "chunk", "chunk_mean"])
@pytest.mark.parametrize("length", [0, 1, 3, 6, 8])
def test_mc_mhsa(length: int, lin_norm: str, causal: bool) -> None:
    """Section 4.3, token by token: softmax over its chunk, and every token of the chunks it sees, unweighted."""
    graph, p, x = block("mc_mhsa", length, heads=2, causal=causal, chunk=3, cumsum="native", lin_norm=lin_norm)
    q, k, v = heads_of(x, p, 2)
    q, k, out = turned(q, True), turned(k, True), np.zeros_like(v)
    count = -(-length // 3)
    for b, h, t in np.ndindex(*out.shape[:3]):
        g = t // 3
        own = [m for m in range(length) if m // 3 == g and (m <= t or not causal)]
        weights = softmaxed([q[b, h, t] @ k[b, h, m] / 2 for m in own])
        out[b, h, t] = sum(w * v[b, h, m] for w, m in zip(weights, own))
        chunks = g if causal else count
        norm = {"none": 1, "chunk": 3, "chunk_mean": 3 * max(chunks, 1)}[lin_norm]
        for m in range(length):
            if m // 3 < chunks:
                out[b, h, t] += q[b, h, t] @ k[b, h, m] / 2 / norm * v[b, h, m]
    is_both(graph, p, x, joined(x, out, p))


@causal_or_not
@pytest.mark.parametrize("cumsum", ["scan", "matmul", "native"])
def test_no_strategy_changes_mc_mhsa(cumsum: str, causal: bool) -> None:
    graph, p, x = block("mc_mhsa", 7, heads=2, chunk=2, cumsum="native", causal=causal)
    other, _, _ = block("mc_mhsa", 7, heads=2, chunk=2, cumsum=cumsum, causal=causal)
    assert_equal_results(interpret(lowered(other), p, x), interpret(lowered(graph), p, x))


CAUSAL: list[tuple[str, dict[str, Any]]] = [
    ("mhsa", {}),
    ("mhsa", {"attention": "relu2", "gating": True}),
    ("combiner", {"chunk": 2}),
    ("combiner", {"chunk": 16}),
    *(("mc_mhsa", {"cumsum": kind, "chunk": 2}) for kind in ("scan", "matmul", "native")),
    *(("performer", {"cumsum": kind, "tile": tile}) for kind in ("scan", "matmul", "native") for tile in (1, 3)),
]


@pytest.mark.parametrize(("name", "attrs"), CAUSAL)
def test_no_token_sees_those_after_it(name: str, attrs: dict[str, Any]) -> None:
    """Bit for bit, at every cut."""
    graph, p, x = block(name, 9, heads=2, **attrs)
    made = lowered(graph)
    (before,) = interpret(made, p, x)
    for t in range(8):
        later = x.copy()
        later[:, t + 1 :] = random_array(typed(f"f32[2, {8 - t}, 8]"), 7) * 9
        (after,) = interpret(made, p, later)
        assert np.array_equal(before[:, : t + 1], after[:, : t + 1])
        assert not np.allclose(before[:, t + 1 :], after[:, t + 1 :])
