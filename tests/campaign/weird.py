"""Values of wrong types, out of range, or unusual."""

from __future__ import annotations

import datetime
import decimal
import fractions
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flashir import AUTO, DType, Graph, Sampling


class Hostile:
    """An object that raises in conversions."""

    def __repr__(self) -> str:
        return "<Hostile>"

    def __bool__(self) -> bool:
        raise ValueError("this has no truth")


def _recursive() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 100, 2**31, 2**32, 2**63, 2**64, 10**30, -(2**70), True, False, 0.0, -0.0, 0.5, 1.5, 2.0, 1e-300,
    1e300, float("nan"), float("inf"), float("-inf"), 1 + 2j, decimal.Decimal("2"), fractions.Fraction(1, 2),
    np.int64(3),
    np.int8(-1), np.uint64(2**63), np.float32(1.5), np.float64(2.0), np.bool_(True), np.array(3), np.array(2.5),
)  # fmt: skip
WORDS: tuple[Any, ...] = (
    "", " ", "x", "0", "1", "-1", "1.5", "auto", "none", "None", "true", "nan", "flash", "gau", "onnx:cpu", "torch:cpu",
    "jax:cpu", "onnx", ":", "onnx:", ":cpu", "onnx:cuda", "onnx:tpu-v4", "torch:h200", "jax:tpu-v4x32", "onnx:cpux0",
    "onnx:cpux99999999999999999999", "ONNX:CPU", "onnx:cpu ", "torch:cuda", "float32", "bfloat16", "float16", "f64",
    "int8", "scan", "matmul", "native", "quality", "fastest", "best", "lm", "mlm", "tiny", "base", "\0", "a\0b", "é",
    "\u0661",
    "\ud800", "\U0001d7d9", "../..", "/", ".", "~", "/dev/null", "/dev/full", "/proc/self/mem", "/nonexistent/x",
    "a/" * 3000,
    "x" * 100_000, "a\nb", "\x1b[2J", "%s%n", "{}", "{0.__class__}", "model @m(%x: f32[T]) { return %x }",
)  # fmt: skip
MAKERS: tuple[Callable[[], Any], ...] = (
    lambda: None,
    lambda: AUTO,
    lambda: ...,
    lambda: b"",
    lambda: b"flash",
    lambda: bytearray(b"x"),
    lambda: [],
    lambda: [[]],
    lambda: [1, 2, 3],
    lambda: [[1, 2], [3]],
    lambda: [1.5],
    lambda: ["a"],
    lambda: [None],
    lambda: (),
    lambda: (1,),
    lambda: {},
    lambda: {"a": 1},
    lambda: {1: 2},
    lambda: {"embed.weight": None},
    lambda: {"embed.weight": "x"},
    lambda: {"embed.weight": np.zeros((2, 2), np.float32)},
    lambda: set(),
    lambda: {1},
    lambda: range(3),
    lambda: iter([1, 2]),
    lambda: (n for n in (1, 2)),
    lambda: object(),
    lambda: object,
    lambda: Hostile(),
    lambda: lambda: 0,
    lambda: print,
    lambda: DType.F32,
    lambda: DType.BOOL,
    lambda: Sampling(),
    lambda: Path("/nonexistent/y"),
    lambda: Path("."),
    lambda: Path("/dev/null"),
    lambda: datetime.date(2024, 1, 1),
    lambda: np.zeros((0,)),
    lambda: np.zeros((2, 3)),
    lambda: np.zeros((2, 3), np.int64),
    lambda: np.full((1, 2), -1),
    lambda: np.full((1, 2), 2**40),
    lambda: np.array([[np.nan]]),
    lambda: np.array(["a"]),
    lambda: np.array([None, 1], object),
    lambda: np.array([[1, 2]], np.uint8),
    lambda: np.array([[1, 2]], ">i4"),
    lambda: np.array([[1.0]], np.float16),
    lambda: np.zeros((1, 1, 1, 1, 1)),
    lambda: np.array([(1, 2)], [("a", int), ("b", int)]),
    lambda: np.array(["2020-01-01"], "datetime64[D]"),
    lambda: np.ma.masked_array([[1, 2]], [[False, True]]),
    lambda: np.zeros((1, 0), np.int64),
    lambda: _recursive(),
    lambda: memoryview(b"ab"),
    lambda: ValueError("x"),
    lambda: float,
    lambda: "x".join,
)


def weird(random: random.Random) -> Any:
    """A random unusual value."""
    way = random.random()
    if way < 0.35:
        return random.choice(NUMBERS)
    return random.choice(WORDS) if way < 0.65 else random.choice(MAKERS)()


def is_inside(value: Any) -> bool:
    """Whether a path is inside the working folder, so that writing there is harmless."""
    try:
        text = os.fsdecode(value)
    except (TypeError, ValueError):
        return True
    return "/" not in text and ".." not in text and "~" not in text


def place(random: random.Random, folder: Path) -> Any:
    """A path to write to, or an unusual value, always inside the folder."""
    (folder / "there").mkdir(exist_ok=True)
    (folder / "there" / "file").write_text("x")
    (folder / "link").symlink_to("nowhere")
    odd = ("there", "there/file", "there/file/below", "link", "n" * 300, "new/er/est", "a\nb", " ", "é", ".", "t\0")
    if random.random() < 0.5:
        return folder / random.choice(odd) if random.random() < 0.5 else str(folder / random.choice(odd))
    value = weird(random)
    return value if is_inside(value) else folder


def shown(value: Any) -> str:
    """A short text of any value."""
    if isinstance(value, Graph):
        return "<a graph>"
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__}, repr raises {type(error).__name__}>"
    return text if len(text) < 200 else f"{text[:100]}.. ({len(text)} characters)"
