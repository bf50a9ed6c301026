"""Every backend against the float64 interpreter, over every setting of flash and gau that changes the function.

JAX compiles each length anew, so it is given fewer of them at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest

import flashir
from flashir import interpret
from flashir.ir import Builder
from flashir.models.parameters import unit
from flashir.reference.compare import relative_error
from tests.backends.support import SMALL, at_hand, check, flash, session, tokens
from tests.cover import GRID, cover, grid

CUMSUM = ("scan", "matmul", "native")
LIN_NORM = ("none", "chunk", "chunk_mean")
NAMES = ("chunk", "causal", "norm", "lin_norm", "segments", "cumsum")
EVERY = tuple(product((4, 16, 128, 512), (True, False), ("layer_norm", "scale_norm"), LIN_NORM, (False, True), CUMSUM))
COVER = tuple(EVERY[155 * i % len(EVERY)] for i in range(15))
"""A few of the 288 that still have every pair of settings."""
ONCE = tuple(EVERY[place] for place in sorted(cover([map(str, enumerate(settings)) for settings in EVERY], together=1)))
"""Fewer, with every value of a setting."""

HERE = tuple(name for name in ("onnx", "torch", "jax") if at_hand(name))
on_every_backend = pytest.mark.parametrize("name", HERE)
in_narrow_types = pytest.mark.parametrize("name", [name for name in HERE if name != "onnx"])  # it has no bfloat16


def lengths(chunk: int) -> tuple[int, ...]:
    """Into the fourth chunk, which has something to sum up, and around one."""
    return (3 * chunk + 2, 1, chunk - 1, chunk, chunk + 1)


def every_setting() -> Iterator[Any]:
    """Every setting: each once on one backend, every pair of settings on most slow, and the whole grid on all."""
    for name, settings in product(HERE, EVERY):
        marks = pytest.mark.slow if settings in COVER and name != "jax" else GRID
        shown = "-".join(map(str, settings))
        yield pytest.param(name, settings, lengths(settings[0]), marks=marks, id=f"{name}-{shown}")
    for place, settings in enumerate(ONCE):
        name, shown = HERE[place % len(HERE)], "-".join(map(str, settings))
        yield pytest.param(name, settings, lengths(settings[0])[:1], id=f"{name}-once-{shown}")


@pytest.mark.parametrize(("name", "settings", "lengths"), tuple(every_setting()))
def test_flash_is_the_interpreters(name: str, settings: tuple[Any, ...], lengths: Sequence[int]) -> None:
    check(f"{name}:cpu", flash(**dict(zip(NAMES, settings))), lengths)


def test_the_short_selection_covers_every_pair_of_settings() -> None:
    for one, two in combinations(range(len(NAMES)), 2):
        assert {(s[one], s[two]) for s in COVER} == {(s[one], s[two]) for s in EVERY}


@pytest.mark.slow_where(name="jax")
@on_every_backend
@pytest.mark.parametrize("causal", [True, False])
def test_every_length_of_a_chunk(name: str, causal: bool) -> None:
    check(f"{name}:cpu", flash(4, causal=causal, depth=1), lengths(4) if causal and name != "jax" else (3, 5))


@pytest.mark.slow_where(name="jax")
@on_every_backend
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
def test_parts_and_scales_of_flash(name: str, qk_scale: str, segments: bool, parts: dict[str, Any]) -> None:
    check(f"{name}:cpu", flash(**parts, qk_scale=qk_scale, max_len=8, segments=segments), (11,))


@pytest.mark.slow_where(name="jax")
@on_every_backend
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
def test_gau_is_the_interpreters(name: str, max_len: int, qk_scale: str, causal: bool, norm: str) -> None:
    model = flashir.model("flash-quad", **SMALL, max_len=max_len, qk_scale=qk_scale, causal=causal, norm=norm)
    check(f"{name}:cpu", model, (7 if causal else 48,) if name == "jax" else (0, 1, 7, 48))


@on_every_backend
@pytest.mark.parametrize(("cumsum", "batch", "length"), [("scan", 1, 0), ("native", 0, 0), ("matmul", 0, 9)])
def test_nothing_comes_of_nothing(name: str, cumsum: str, batch: int, length: int) -> None:
    check(f"{name}:cpu", flash(cumsum=cumsum, segments=True), (length,), batch=batch)


@on_every_backend
def test_gau_of_no_tokens(name: str) -> None:
    check(f"{name}:cpu", flashir.model("flash-quad", **SMALL, max_len=600), (0,))
    check(f"{name}:cpu", flashir.model("flash-quad", **SMALL, max_len=8, causal=False), (0,), batch=0)


@pytest.mark.slow_where(name="jax")
@in_narrow_types
@grid(together=1, dtype=("bfloat16", "float16"), cumsum=CUMSUM)
def test_flash_in_half_precision_is_near_the_interpreter(name: str, cumsum: str, dtype: str) -> None:
    check(f"{name}:cpu", flash(16, cumsum, dtype=dtype), (50,), tolerance=2e-2)


@in_narrow_types
@pytest.mark.parametrize("cumsum", ["scan", "native"])
def test_many_small_additions_are_not_lost_in_half_precision(name: str, cumsum: str) -> None:
    """2000 chunks of one token: a state in bfloat16 would stop growing at 256."""
    b = Builder("states")
    x = b.input("x", "bf16[1, 2000, 1, 2]")
    model = b.finish(
        b.cast(b.linear_attention(x, x, x, causal=True, cumsum=cumsum, lin_norm="none"), dtype=flashir.DType.F32)
    )
    ones = np.ones((1, 2000, 1, 2), np.float32)
    assert relative_error(session(f"{name}:cpu", model, {})([ones]), interpret(model, {}, ones)[0]) < 5e-3


@pytest.mark.slow_where(name="jax")
@on_every_backend
@pytest.mark.parametrize(("cumsum", "segments"), [("scan", False), ("native", False), ("matmul", True)])
def test_the_past_is_untouched_bit_for_bit(name: str, cumsum: str, segments: bool) -> None:
    """Another token at t changes the logits from t on, and not one bit of those before."""
    model = flash(4, cumsum, segments=segments)
    run = session(f"{name}:cpu", model, unit(model))
    ids, *rest = tokens(model, 1, 14)
    before = run([ids, *rest])
    for t in (0, 3, 4, 6, 8, 13):
        changed = ids.copy()
        changed[0, t] = (ids[0, t] + 1) % SMALL["vocab"]
        after = run([changed, *rest])
        assert np.array_equal(before[:, :t], after[:, :t])
        assert not np.array_equal(before[:, t], after[:, t])


@pytest.mark.slow_where(name="jax")
@on_every_backend
def test_layers_beside_loops_and_loops_in_loops(name: str) -> None:
    """One gau after every three flash layers, twice, with a layer before: names of parameters follow the layers."""
    b = Builder("mixed")
    x = b.embed(b.input("ids", "i32[B, T]"), vocab=11, dim=16)
    x = b.flash(x, key_dim=8, chunk=4, cumsum="scan")

    def inner(b: Any, h: Any) -> Any:
        return b.flash(h, key_dim=8, chunk=4, cumsum="native", norm="scale_norm")

    def outer(b: Any, h: Any) -> Any:
        return b.gau(b.repeat(h, times=3, body=inner), key_dim=8, max_len=32)

    check(f"{name}:cpu", b.finish(b.unembed(b.repeat(x, times=2, body=outer))), (9,))


@pytest.mark.slow_where(name="jax")
@on_every_backend
@pytest.mark.parametrize("times", [0, 1])
def test_few_layers(name: str, times: int) -> None:
    one = flashir.dumps(flash(depth=1))
    assert "times = 1" in one
    check(f"{name}:cpu", flashir.loads(one.replace("times = 1", f"times = {times}")), (5,))
