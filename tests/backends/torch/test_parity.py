"""PyTorch against the float64 interpreter, over every setting of flash and gau that changes the function."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest

import flashir
from flashir import Graph, interpret
from flashir.errors import InputError
from tests.backends.torch.support import SMALL, TOLERANCE, flash, relative_error, session, tokens, unit

CUMSUM = ("scan", "matmul", "native")
LIN_NORM = ("none", "chunk", "chunk_mean")
QK_SCALE = ("length", "none", "max_len", "sqrt_key")

NAMES = ("chunk", "causal", "norm", "lin_norm", "segments", "cumsum")
GRID = tuple(product((4, 16, 128, 512), (True, False), ("layer_norm", "scale_norm"), LIN_NORM, (False, True), CUMSUM))
COVER = GRID[::13]
"""A few of the 288 that still have every pair of settings."""


def lengths(chunk: int) -> tuple[int, ...]:
    """Around one chunk, and into the fourth, which has something to sum up."""
    return (3 * chunk + 2, 1, chunk - 1, chunk, chunk + 1)


def check(model: Graph, lengths: tuple[int, ...], tolerance: float = TOLERANCE, batch: int = 2) -> None:
    params = unit(model)
    run = session(model, params)
    for length in lengths:
        ids = tokens(model, batch, length)
        logits = run(ids)
        assert logits.dtype == np.float32
        assert relative_error(logits, interpret(model, params, *ids)[0]) < tolerance, length


@pytest.mark.parametrize("settings", [pytest.param(s, marks=() if s in COVER else pytest.mark.slow) for s in GRID])
def test_flash(settings: tuple[Any, ...]) -> None:
    check(flash(**dict(zip(NAMES, settings))), lengths(settings[0]))


def test_the_short_selection_covers_every_pair_of_settings() -> None:
    for one, two in combinations(range(len(NAMES)), 2):
        assert {(s[one], s[two]) for s in COVER} == {(s[one], s[two]) for s in GRID}


@pytest.mark.parametrize(
    ("qk_scale", "segments", "parts"),
    [
        ("length", True, {"use_local": False}),
        ("none", False, {"use_local": False}),
        ("max_len", True, {"use_global": False}),
        ("max_len", False, {}),
        ("sqrt_key", True, {}),
    ],
)
def test_parts_and_scales_of_flash(qk_scale: str, segments: bool, parts: dict[str, bool]) -> None:
    check(flash(**parts, qk_scale=qk_scale, max_len=8, segments=segments), (11,))


@pytest.mark.parametrize(
    ("max_len", "qk_scale", "causal", "norm"),
    [
        (48, "length", True, "layer_norm"),
        (48, "none", False, "scale_norm"),
        (600, "max_len", True, "scale_norm"),
        (600, "sqrt_key", False, "layer_norm"),
        (600, "length", False, "layer_norm"),
    ],
)
def test_gau(max_len: int, qk_scale: str, causal: bool, norm: str) -> None:
    model = flashir.model("flash-quad", **SMALL, max_len=max_len, qk_scale=qk_scale, causal=causal, norm=norm)
    check(model, (0, 1, 7, 48))


def test_gau_refuses_what_its_bias_does_not_span() -> None:
    model = flashir.model("flash-quad", **SMALL, max_len=8)
    with pytest.raises(InputError):
        session(model, unit(model))(tokens(model, 1, 9))


@pytest.mark.parametrize(("cumsum", "batch", "length"), [("scan", 1, 0), ("native", 0, 0), ("matmul", 0, 9)])
def test_nothing_comes_of_nothing(cumsum: str, batch: int, length: int) -> None:
    check(flash(cumsum=cumsum, segments=True), (length,), batch=batch)


def test_gau_of_no_tokens() -> None:
    check(flashir.model("flash-quad", **SMALL, max_len=600), (0,))
    check(flashir.model("flash-quad", **SMALL, max_len=8, causal=False), (0,), batch=0)


@pytest.mark.parametrize(
    ("dtype", "cumsum"), [("bfloat16", "scan"), ("bfloat16", "native"), ("bfloat16", "matmul"), ("float16", "scan")]
)
def test_half_precision(cumsum: str, dtype: str) -> None:
    check(flash(16, cumsum, dtype=dtype), (50,), tolerance=2e-2)


@pytest.mark.parametrize("cumsum", ["scan", "native"])
def test_many_small_additions_are_not_lost_in_half_precision(cumsum: str) -> None:
    """2000 chunks of one token: a state in bfloat16 would stop growing at 256."""
    from flashir.ir import Builder

    b = Builder("states")
    x = b.input("x", "bf16[1, 2000, 1, 2]")
    model = b.finish(
        b.cast(b.linear_attention(x, x, x, causal=True, cumsum=cumsum, lin_norm="none"), dtype=flashir.DType.F32)
    )
    ones = np.ones((1, 2000, 1, 2), np.float32)
    wanted = interpret(model, {}, ones)[0]
    assert relative_error(session(model, {})([ones]), wanted) < 5e-3


@pytest.mark.parametrize(("cumsum", "segments"), [("scan", False), ("native", False), ("matmul", True)])
def test_the_past_is_untouched_bit_for_bit(cumsum: str, segments: bool) -> None:
    """Another token at t changes the logits from t on, and not one bit of those before."""
    model = flash(4, cumsum, segments=segments)
    run = session(model, unit(model))
    ids, *rest = tokens(model, 1, 14)
    before = run([ids, *rest])
    for t in (0, 3, 4, 6, 8, 13):
        changed = ids.copy()
        changed[0, t] = (ids[0, t] + 1) % SMALL["vocab"]
        after = run([changed, *rest])
        assert np.array_equal(before[:, :t], after[:, :t])
        assert not np.array_equal(before[:, t], after[:, t])


def test_layers_beside_loops_and_loops_in_loops() -> None:
    """One gau after every three flash layers, twice, with a layer before: names of parameters follow the layers."""
    b = flashir.Builder("mixed")
    x = b.embed(b.input("ids", "i32[B, T]"), vocab=11, dim=16)
    x = b.flash(x, key_dim=8, chunk=4, cumsum="scan")

    def inner(b: Any, h: Any) -> Any:
        return b.flash(h, key_dim=8, chunk=4, cumsum="native", norm="scale_norm")

    def outer(b: Any, h: Any) -> Any:
        return b.gau(b.repeat(h, times=3, body=inner), key_dim=8, max_len=32)

    model = b.finish(b.unembed(b.repeat(x, times=2, body=outer)))
    check(model, (9,))


@pytest.mark.parametrize("times", [0, 1])
def test_few_layers(times: int) -> None:
    check(flash(depth=times), (5,))
