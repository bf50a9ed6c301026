"""ONNX Runtime against the float64 interpreter, over more settings than all backends are given: it is quick."""

from __future__ import annotations

import numpy as np
import pytest

import flashir
from flashir import Graph, interpret
from flashir.errors import FlashirError
from flashir.ir import Builder
from tests.backends.onnx.support import SMALL, TOLERANCE, flash, relative_error, session, tokens, unit
from tests.cover import grid

CUMSUM = ("scan", "matmul", "native")
LIN_NORM = ("none", "chunk", "chunk_mean")
QK_SCALE = ("length", "none", "max_len", "sqrt_key")


@grid(together=1, chunk=(4, 16, 128), lin_norm=LIN_NORM)
def test_every_parameter_matters(chunk: int, lin_norm: str) -> None:
    """With the parameters that the grid uses, a term that is missing is far above the tolerance."""
    model = flash(chunk, lin_norm=lin_norm)
    params, ids = unit(model), tokens(model, 2, 3 * chunk + 2)
    wanted = interpret(model, params, *ids)[0]
    for name, value in params.items():
        for part in range(len(value)) if "offset_scale" in name else (...,):  # each cheap head by itself
            without = value.copy()
            without[part] = 0
            got = interpret(model, {**params, name: without}, *ids)[0]
            assert relative_error(got, wanted) > 5 * TOLERANCE, (name, part)


@grid(together=1, qk_scale=QK_SCALE, parts=({}, {"use_global": False}, {"use_local": False}), segments=(False, True))
def test_parts_and_scales_of_flash(qk_scale: str, parts: dict[str, bool], segments: bool) -> None:
    model = flash(**parts, qk_scale=qk_scale, max_len=8, segments=segments)
    check(model, (1, 4, 11))


@grid(together=1, max_len=(48, 600), qk_scale=QK_SCALE, causal=(True, False), norm=("layer_norm", "scale_norm"))
def test_gau_with_either_bias_is_the_interpreters(max_len: int, qk_scale: str, causal: bool, norm: str) -> None:
    model = flashir.model("flash-quad", **SMALL, max_len=max_len, qk_scale=qk_scale, causal=causal, norm=norm)
    check(model, (0, 1, 7, 48))


def check(model: Graph, lengths: tuple[int, ...], tolerance: float = TOLERANCE) -> None:
    params = unit(model)
    run = session(model, params)
    for length in lengths:
        ids = tokens(model, 2, length)
        logits = run(ids)
        assert logits.dtype == np.float32
        assert relative_error(logits, interpret(model, params, *ids)[0]) < tolerance, length


def test_gau_refuses_what_its_bias_does_not_span() -> None:
    model = flashir.model("flash-quad", **SMALL, max_len=8)
    run = session(model, unit(model))
    with pytest.raises(FlashirError, match="ONNX Runtime"):
        run(tokens(model, 1, 9))


@grid(together=1, cumsum=CUMSUM, causal=(True, False), segments=(False, True))
def test_batches_without_rows_or_tokens_and_of_several_rows(cumsum: str, causal: bool, segments: bool) -> None:
    model = flash(cumsum=cumsum, causal=causal, segments=segments)
    params = unit(model)
    run = session(model, params)
    for batch, length in ((1, 0), (0, 0), (0, 9), (3, 9)):
        ids = tokens(model, batch, length)
        logits = run(ids)
        assert logits.shape == (batch, length, SMALL["vocab"])
        for row in range(batch):  # rows of a batch know nothing of each other
            alone = [each[row : row + 1] for each in ids]
            assert relative_error(logits[row : row + 1], interpret(model, params, *alone)[0]) < TOLERANCE


@grid(together=1, cumsum=CUMSUM, causal=(True, False), segments=(False, True))
def test_flash_in_float16_is_near_the_interpreter(cumsum: str, causal: bool, segments: bool) -> None:
    model = flash(16, cumsum, causal=causal, segments=segments, dtype="float16")
    check(model, (0, 1, 16, 50), tolerance=2e-2)


@grid(together=1, causal=(True, False), max_len=(48, 600))
def test_gau_in_float16_is_near_the_interpreter(causal: bool, max_len: int) -> None:
    model = flashir.model("flash-quad", **SMALL, max_len=max_len, causal=causal, dtype="float16")
    check(model, (0, 1, 48), tolerance=2e-2)


@pytest.mark.parametrize("cumsum", CUMSUM)
def test_float16_states_are_summed_in_float32(cumsum: str) -> None:
    """In float16, 2048 + 1 is 2048: a sum of ones would stop there."""
    b = Builder("states")
    x = b.input("x", "f16[1, 3000, 1, 2]")
    model = b.finish(b.linear_attention(x, x, x, causal=True, cumsum=cumsum, lin_norm="none"))
    ones = np.ones((1, 3000, 1, 2), np.float16)
    assert relative_error(session(model, {})([ones]), interpret(model, {}, ones)[0]) < 1e-3
