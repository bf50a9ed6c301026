"""The paper's pseudocode, written down literally in numpy and compared with the interpreter.

Codes 4, 6 and 8 are mended where their print is broken: relu² is applied to (qk / n + bias), Code 8's lin_v is v,
Code 4's second rope is of b, Code 5's scalar is the scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flashir import Builder, Graph, interpret
from tests.support import TIGHT, assert_equal_results, lowered, random_array, random_parameters, typed

close = {"rtol": TIGHT, "atol": TIGHT}
D, S = 6, 4


def rope(x: Any, axes: list[int]) -> Any:
    """Code 3."""
    position = np.arange(np.prod([x.shape[i] for i in axes])).reshape([x.shape[i] for i in axes])
    for _ in range(axes[-1] + 1, x.ndim - 1):
        position = position[..., None]
    half = x.shape[-1] // 2
    sinusoid = np.einsum("...,d->...d", position.astype(float), 10000.0 ** -(np.arange(half) / half))
    sin, cos = np.sin(sinusoid), np.cos(sinusoid)
    x1, x2 = np.split(x, 2, axis=-1)
    return np.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)


def toeplitz(w: Any, n: int) -> Any:
    """Code 4, n < 512."""
    t = np.tile(np.pad(w, [0, n]), n)[:-n].reshape(n, 3 * n - 2)
    r = (2 * n - 1) // 2
    return t[:, r : t.shape[1] - r]


def rope_bias(a: Any, b: Any, n: int) -> Any:
    """Code 4, n >= 512."""
    return np.einsum("mk,nk->mn", rope(np.tile(a, (n, 1)), [0]), rope(np.tile(b, (n, 1)), [0]))


def norm(x: Any, p: dict[str, Any], kind: str, eps: float = 1e-5) -> Any:
    """Code 5."""
    if kind == "layer_norm":
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
        return x * p["norm.scale"] + p["norm.bias"]
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + eps) * p["norm.scale"]


def projected(x: Any, p: dict[str, Any], kind: str, expansion: float) -> Any:
    """The shared beginning of Codes 6 and 8: u, v and the cheap heads before rope."""
    e = int(x.shape[-1] * expansion)
    uv = norm(x, p, kind) @ p["proj_in.weight"] + p["proj_in.bias"]
    u, v, base = np.split(uv / (1 + np.exp(-uv)), [e, 2 * e], axis=-1)
    return u, v, np.einsum("...r,hr->...hr", base, p["offset_scale.gamma"]) + p["offset_scale.beta"]


def code_6(x: Any, p: dict[str, Any], causal: bool, kind: str, expansion: float = 2) -> Any:
    n = x.shape[1]
    u, v, base = projected(x, p, kind, expansion)
    q, k = np.moveaxis(rope(base, [1]), -2, 0)
    bias = toeplitz(p["rel_bias.w"], n) if "rel_bias.w" in p else rope_bias(p["rel_bias.a"], p["rel_bias.b"], n)
    kernel = np.square(np.maximum(np.einsum("bnd,bmd->bnm", q, k) / n + bias, 0))
    kernel = kernel * np.tri(n) if causal else kernel
    return (u * np.einsum("bnm,bme->bne", kernel, v)) @ p["proj_out.weight"] + p["proj_out.bias"] + x


def code_7(segment_ids: Any, causal: bool, average: bool = True) -> Any:
    """[b, g, n] -> [b, g, h]"""
    low, high = segment_ids.min(-1), segment_ids.max(-1)
    mask = ((low[:, :, None] <= high[:, None, :]) & (high[:, :, None] >= low[:, None, :])).astype(float)
    if causal:
        mask = mask * np.tri(mask.shape[1], k=-1)
    if not average:
        return mask
    total = mask.sum(-1, keepdims=True)
    return np.divide(mask, total, out=np.zeros_like(mask), where=total > 0)


def code_8(
    x: Any, p: dict[str, Any], causal: bool, segment_ids: Any, kind: str, lin_norm: str, expansion: float = 2
) -> Any:
    """x is [b, g, n, d], segment_ids [b, g, n]."""
    n = x.shape[2]
    u, v, base = projected(x, p, kind, expansion)
    quad_q, quad_k, lin_q, lin_k = np.moveaxis(rope(base, [1, 2]), -2, 0)
    lin_kv = np.einsum("bgnk,bgne->bgke", lin_k, v) / (1 if lin_norm == "none" else n)
    mask = code_7(segment_ids, causal, average=lin_norm == "chunk_mean")
    linear = np.einsum("bgnk,bgke->bgne", lin_q, np.einsum("bhke,bgh->bgke", lin_kv, mask))
    kernel = np.einsum("bgnk,bgmk->bgnm", quad_q, quad_k) / n + toeplitz(p["rel_bias.w"], n)
    kernel = np.square(np.maximum(kernel, 0)) * (np.tri(n) if causal else 1)
    quadratic = np.einsum("bgnm,bgme->bgne", kernel, v)
    return (u * (quadratic + linear)) @ p["proj_out.weight"] + p["proj_out.bias"] + x


def block(op: str, length: int, segments: bool = False, **attrs: Any) -> tuple[Graph, dict[str, Any], list[Any]]:
    """A model that is one block, its parameters by local name, and its inputs; ids grow as documents follow."""
    b = Builder(op)
    operands = [b.input("x", f"f32[2, {length}, {D}]")]
    if segments:
        operands.append(b.input("segment_ids", f"i32[2, {length}]"))
    graph = b.finish(*b.insert(op, operands, {"key_dim": S, **attrs}))
    inputs = [random_array(value.type, seed) for seed, value in enumerate(graph.inputs)]
    return graph, random_parameters(graph), [inputs[0], *(np.sort(ids, axis=1) for ids in inputs[1:])]


def local_names(params: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("layers.0."): value for name, value in params.items()}


def check(graph: Graph, params: dict[str, Any], inputs: list[Any], wanted: Any) -> None:
    """Both the interpreter's reading of the block and that of its lowering are the paper's."""
    assert_equal_results(interpret(graph, params, *inputs), (wanted,))
    assert_equal_results(interpret(lowered(graph), params, *inputs), (wanted,))


@pytest.mark.parametrize("length", [0, 1, 5, 300])
def test_rope_is_code_3(length: int) -> None:
    b = Builder()
    x = random_array(typed(f"f32[2, {length}, 3, 8]"), 0)
    graph = b.finish(b.rope(b.input("x", f"f32[2, {length}, 3, 8]"), axis=1))
    assert_equal_results(interpret(graph, {}, x), (rope(x, [1]),))
    assert_equal_results(interpret(lowered(graph), {}, x), (rope(x, [1]),))


def test_positions_count_over_chunks_in_code_3() -> None:
    """rope(x, axis=[1, 2]) of [b, g, n, s] is rope over the g * n positions."""
    x = random_array(typed("f32[2, 3, 4, 8]"), 0)
    np.testing.assert_allclose(rope(x, [1, 2]).reshape(2, 12, 8), rope(x.reshape(2, 12, 8), [1]), **close)


@pytest.mark.parametrize("n", [1, 2, 5, 37])
def test_the_short_bias_is_the_toeplitz_matrix_of_code_4(n: int) -> None:
    b = Builder()
    w = random_array(typed(f"f32[{2 * n - 1}]"), 0)
    graph = b.finish(b.rel_pos_bias(b.input("w", f"f32[{2 * n - 1}]"), n=n))
    assert_equal_results(interpret(graph, {}, w), (toeplitz(w, n),))
    assert_equal_results(interpret(lowered(graph), {}, w), (toeplitz(w, n),))


def test_a_shorter_input_uses_the_middle_of_the_bias() -> None:
    b = Builder()
    w = random_array(typed("f32[13]"), 0)
    graph = b.finish(b.rel_pos_bias(b.input("w", "f32[13]"), n=3))
    assert_equal_results(interpret(lowered(graph), {}, w), (toeplitz(w[4:9], 3),))


@pytest.mark.parametrize("n", [1, 2, 130])
def test_the_long_bias_is_the_product_of_turned_vectors_of_code_4(n: int) -> None:
    builder = Builder()
    a, b = random_array(typed("f32[8]"), 0), random_array(typed("f32[8]"), 1)
    operands = builder.input("a", "f32[8]"), builder.input("b", "f32[8]")
    graph = builder.finish(builder.rope_rel_pos_bias(*operands, n=n))
    assert_equal_results(interpret(graph, {}, a, b), (rope_bias(a, b, n),))
    assert_equal_results(interpret(lowered(graph), {}, a, b), (rope_bias(a, b, n),))


@pytest.mark.parametrize("kind", ["layer_norm", "scale_norm"])
def test_norms_are_code_5(kind: str) -> None:
    b = Builder()
    graph = b.finish(b.insert(kind, (b.input("x", "f32[2, 3, 8]"),))[0])
    x, params = random_array(typed("f32[2, 3, 8]"), 0), random_parameters(graph)
    wanted = norm(x, {name.replace("final_norm", "norm"): value for name, value in params.items()}, kind)
    check(graph, params, [x], wanted)


@pytest.mark.parametrize("kind", ["layer_norm", "scale_norm"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 2, 5, 9])
def test_gau_is_code_6(length: int, causal: bool, kind: str) -> None:
    graph, params, inputs = block("gau", length, causal=causal, norm=kind, max_len=length)
    check(graph, params, inputs, code_6(*inputs, local_names(params), causal, kind))


def test_gau_with_a_long_span_uses_the_other_form_of_the_bias() -> None:
    graph, params, inputs = block("gau", 5, max_len=512, expansion=1.5)
    assert params["layers.0.rel_bias.a"].shape == (128,)
    check(graph, params, inputs, code_6(*inputs, local_names(params), True, "layer_norm", 1.5))


@pytest.mark.parametrize("causal", [True, False])
def test_the_segment_mask_of_code_7_masks_the_global_part_alone(causal: bool) -> None:
    """With a document of its own for each chunk, the chunks of the others add nothing; in one document they do."""
    attrs = {"chunk": 2, "cumsum": "matmul", "causal": causal, "use_local": False, "lin_norm": "none"}
    graph, params, (x, _) = block("flash", 6, segments=True, **attrs)
    apart = np.array([[0, 0, 1, 1, 2, 2]] * 2)
    (base,) = interpret(graph, params, x, apart)
    changed = x.copy()
    changed[:, :2, 0] += 1.0
    (moved,) = interpret(graph, params, changed, apart)
    np.testing.assert_allclose(moved[:, 2:], base[:, 2:], **close)
    (joined,) = interpret(graph, params, changed, np.zeros_like(apart))
    (whole,) = interpret(graph, params, x, np.zeros_like(apart))
    assert np.abs(joined[:, 2:] - whole[:, 2:]).max() > 1e-3


@pytest.mark.parametrize("cumsum", ["scan", "matmul", "native"])
@pytest.mark.parametrize("lin_norm", ["none", "chunk", "chunk_mean"])
@pytest.mark.parametrize("causal", [True, False])
def test_flash_is_code_8(causal: bool, lin_norm: str, cumsum: str) -> None:
    graph, params, (x,) = block("flash", 12, chunk=3, causal=causal, lin_norm=lin_norm, cumsum=cumsum)
    wanted = code_8(
        x.reshape(2, 4, 3, D), local_names(params), causal, np.zeros((2, 4, 3), int), "layer_norm", lin_norm
    )
    check(graph, params, [x], wanted.reshape(x.shape))


@pytest.mark.parametrize("lin_norm", ["none", "chunk", "chunk_mean"])
@pytest.mark.parametrize("causal", [True, False])
def test_flash_with_segments_is_code_8(causal: bool, lin_norm: str) -> None:
    attrs = {"chunk": 3, "causal": causal, "lin_norm": lin_norm, "cumsum": "native", "norm": "scale_norm"}
    graph, params, (x, ids) = block("flash", 12, segments=True, **attrs)
    chunks = x.reshape(2, 4, 3, D), local_names(params), causal, ids.reshape(2, 4, 3)
    check(graph, params, [x, ids], code_8(*chunks, "scale_norm", lin_norm).reshape(x.shape))


@pytest.mark.parametrize("cumsum", ["scan", "matmul", "native"])
@pytest.mark.parametrize("length", [0, 1, 2, 4, 5, 11])
def test_a_ragged_causal_flash_is_the_beginning_of_a_longer_one(length: int, cumsum: str) -> None:
    """No token sees one after it: whatever fills the last chunk, the first T rows are those of Code 8."""
    graph, params, (x,) = block("flash", length, chunk=3, cumsum=cumsum)
    longer = np.concatenate([x, random_array(typed(f"f32[2, {12 - length}, {D}]"), 7)], axis=1)
    whole = code_8(
        longer.reshape(2, 4, 3, D), local_names(params), True, np.zeros((2, 4, 3), int), "layer_norm", "chunk_mean"
    )
    check(graph, params, [x], whole.reshape(2, 12, D)[:, :length])


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("length", [0, 1, 4])
def test_padding_of_a_ragged_bidirectional_flash_adds_nothing(length: int, segments: bool) -> None:
    """In no more than two chunks the sums of Code 8 can be written down whole."""
    graph, params, (x, *ids) = block("flash", length, segments, chunk=3, cumsum="native", causal=False)
    p = local_names(params)
    u, v, base = projected(x, p, "layer_norm", 2)
    quad_q, quad_k, lin_q, lin_k = np.moveaxis(rope(base, [1]), -2, 0)
    bias, out = toeplitz(p["rel_bias.w"], 3), np.zeros_like(v)
    spans = [slice(start, min(start + 3, length)) for start in range(0, length, 3)]
    for at in spans:
        n = at.stop - at.start
        kernel = np.square(np.maximum(quad_q[:, at] @ quad_k[:, at].swapaxes(1, 2) / 3 + bias[:n, :n], 0))
        for row in range(2):
            seen = [other for other in spans if not ids or overlap(ids[0][row, at], ids[0][row, other])]
            state = sum(lin_k[row, other].T @ v[row, other] / 3 for other in seen) / len(seen)
            out[row, at] = kernel[row] @ v[row, at] + lin_q[row, at] @ state
    check(graph, params, [x, *ids], (u * out) @ p["proj_out.weight"] + p["proj_out.bias"] + x)


def overlap(here: Any, there: Any) -> bool:
    return bool(here.min() <= there.max() and there.min() <= here.max())


@pytest.mark.parametrize(
    ("qk_scale", "divisor"), [("length", 3.0), ("none", 1.0), ("max_len", 16.0), ("sqrt_key", S**0.5)]
)
def test_qk_scale_divides_the_local_scores_alone(qk_scale: str, divisor: float) -> None:
    attrs = {"chunk": 3, "cumsum": "native", "max_len": 16, "qk_scale": qk_scale}
    graph, params, (x,) = block("flash", 6, **attrs)
    scaled = dict(params)  # Code 8 divides by n: put what is wanted in place of it into q's own scale and shift
    for part in ("gamma", "beta"):
        scaled[f"layers.0.offset_scale.{part}"] = params[f"layers.0.offset_scale.{part}"].copy()
        scaled[f"layers.0.offset_scale.{part}"][0] *= 3.0 / divisor
    ids = np.zeros((2, 2, 3), int)
    wanted = code_8(x.reshape(2, 2, 3, D), local_names(scaled), True, ids, "layer_norm", "chunk_mean")
    check(graph, params, [x], wanted.reshape(x.shape))


def test_flash_with_one_chunk_is_code_6_where_nothing_stands_before() -> None:
    """A causal flash whose chunk is the length sees no chunk before: what is left is quadratic attention."""
    graph, params, (x,) = block("flash", 5, chunk=5, cumsum="scan")
    p = local_names(params)
    quad = {**p, "offset_scale.gamma": p["offset_scale.gamma"][:2], "offset_scale.beta": p["offset_scale.beta"][:2]}
    check(graph, params, [x], code_6(x, quad, True, "layer_norm"))
