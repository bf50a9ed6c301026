"""The floor under each case: its arithmetic, or what it cannot but move."""

from __future__ import annotations

from typing import Any

import pytest

import flashir
from flashir.backends.lowering import Lowering
from flashir.ir import Graph
from flashir.machine.targets import target
from flashir.planning.roofline import floor, parameter_bytes


def product(size: int) -> Graph:
    b = flashir.Builder("product")
    x = b.input("x", f"f32[B, T, {size}]")
    return b.finish(b.matmul(x, b.param(name="w", shape=(size, size), scope="")))


def read(name: str, seq_len: int, where: str = "onnx:cpu", dtype: str | None = None, **settings: Any) -> int:
    """The bytes that a run of a tiny model reads of its parameters."""
    made = flashir.plan(flashir.model(name, size="tiny", **settings), where, 1, seq_len, dtype=dtype)
    return parameter_bytes(Lowering.of(where, check=False).run(made.graph), {"B": 1, "T": seq_len})


def test_the_floor_of_one_product_is_its_arithmetic_or_its_traffic() -> None:
    record = target("onnx:cpu")
    for size, tokens, bound in ((512, 4096, "arithmetic"), (512, 1, "memory traffic"), (4096, 1, "memory traffic")):
        ms, what = floor(flashir.plan(product(size), "onnx:cpu", seq_len=tokens), record)
        arithmetic = 2 * tokens * size * size / (record.peak["f32"] * record.near)
        moved = 4 * (2 * tokens * size + size * size)
        traffic = moved / (record.cache_bandwidth if moved <= record.cache else record.bandwidth)
        assert ms == pytest.approx(1e3 * max(arithmetic, traffic)) and what == bound
    ms, _ = floor(flashir.plan(product(512), "onnx:cpu", seq_len=4096, training=True), record)
    assert ms == pytest.approx(3e3 * 2 * 4096 * 512 * 512 / (record.peak["f32"] * record.near))


def test_of_a_table_the_rows_that_are_looked_up_are_read() -> None:
    fixed = read("transformer", 16, max_len=16)
    assert read("transformer", 16, max_len=1024) == fixed
    assert read("transformer", 32, max_len=1024) == fixed + 4 * 16 * 64
    assert read("transformer", 16, max_len=2**20) == fixed


def test_of_a_table_that_is_multiplied_with_too_all_is_read() -> None:
    model = flashir.model("flash", size="tiny")
    assert read("flash", 64) == 4 * flashir.plan(model, seq_len=64).parameters


def test_weights_count_in_the_type_that_they_lie_in() -> None:
    assert read("transformer", 16, "torch:cpu") == 2 * read("transformer", 16, "torch:cpu", "bfloat16")


def test_a_large_table_leaves_the_floor_where_it_was() -> None:
    record = target("onnx:cpu")
    small, large = (flashir.model("transformer", size="tiny", max_len=max_len) for max_len in (64, 2**20))
    assert floor(flashir.plan(small, seq_len=16), record) == floor(flashir.plan(large, seq_len=16), record)
