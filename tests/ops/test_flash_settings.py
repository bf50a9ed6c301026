"""The settings of gau and flash beside the paper's: what they do to documents, and where they make no sense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flashir import Builder, interpret
from flashir.errors import FlashirError
from flashir.ir import Graph
from flashir.models.parameters import unit

LENGTHS = (5, 4, 3)
KEY, CHUNK, WIDTH = 4, 3, 6


def block(op: str, length: int, documents: bool, **settings: Any) -> Graph:
    """One layer on features, with documents packed in the row or none."""
    b = Builder("one")
    x = b.input("x", f"f32[1, {length}, {WIDTH}]")
    told = (b.input("documents", f"i32[1, {length}]"),) if documents else ()
    before = () if op == "gau" else (None,)
    return b.finish(b.insert(op, (x, *before, *told), {"key_dim": KEY, "causal": False, **settings})[0])


@pytest.mark.parametrize(
    ("op", "settings"),
    [
        ("flash", {"chunk": CHUNK, "cumsum": "matmul", "use_local": False, "lin_norm": "length"}),
        ("flash", {"chunk": 12, "cumsum": "matmul", "use_global": False, "attention": "softmax", "rel_bias": "t5"}),
        ("flash", {"chunk": 12, "cumsum": "matmul", "use_local": False, "lin_norm": "length", "reduce_groups": False}),
        ("gau", {"rel_bias": "t5", "attention": "softmax", "qk_scale": "log_length"}),
        ("gau", {"rel_bias": "t5", "qk_scale": "root_length", "norm": "none", "residual": False}),
    ],
)
def test_a_document_in_a_row_is_as_if_alone(op: str, settings: dict[str, Any]) -> None:
    x = np.random.default_rng(0).standard_normal((1, sum(LENGTHS), WIDTH))
    numbers = np.repeat(np.arange(1, len(LENGTHS) + 1), LENGTHS)[None]
    packed = block(op, sum(LENGTHS), True, **settings)
    params = unit(packed)
    (together,) = interpret(packed, params, x, numbers)
    for number in range(1, len(LENGTHS) + 1):
        at = numbers[0] == number
        (alone,) = interpret(block(op, int(at.sum()), False, **settings), params, x[:, at])
        np.testing.assert_allclose(together[:, at], alone, atol=1e-9)


@pytest.mark.parametrize(
    ("op", "settings", "problem"),
    [
        ("flash", {"causal": True, "lin_norm": "length"}, "lin_norm = length needs the whole length"),
        ("flash", {"causal": True, "reduce_groups": False}, "reduce_groups = false needs a bidirectional"),
        ("flash", {"use_global": False, "reduce_groups": False}, "reduce_groups = false needs a bidirectional"),
        ("flash", {"norm_clamp": True}, "norm_clamp needs scale_norm, the norm is layer_norm"),
        ("flash", {"expanded": 0}, "expanded must be at least 1"),
        ("gau", {"key_dim": 3}, "key_dim must be even"),
        ("gau", {"rope_dims": -2}, "rope_dims must be at least 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(op: str, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(FlashirError, match=problem):
        block(op, 5, False, **({"chunk": CHUNK, "cumsum": "matmul"} if op == "flash" else {}), **settings)


@pytest.mark.parametrize("length", [1, 3, 7])
def test_softmax_counts_no_padding(length: int) -> None:
    """A chunk longer than the text gives what one of its length gives."""
    settings = {"cumsum": "matmul", "attention": "softmax", "rel_bias": "t5", "lin_norm": "none", "use_global": False}
    short, long = (block("flash", length, False, chunk=n, qk_scale="none", **settings) for n in (length, 16))
    params = unit(short)
    x = np.random.default_rng(1).standard_normal((1, length, WIDTH))
    np.testing.assert_allclose(interpret(long, params, x)[0], interpret(short, params, x)[0], atol=1e-12)
